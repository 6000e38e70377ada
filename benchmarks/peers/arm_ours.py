"""Worker: purejaxppo itself."""

from arm import Arm, jax_arm

from purejaxppo import PPOConfig, compiler_options, make_train, use_cores, vmap_over_devices


def make(job: dict) -> Arm:
    """The shape's configuration, as it is; seeds are spread over the cores."""
    use_cores(job["seeds"])
    train = make_train(PPOConfig.from_dict(job["config"]))
    return jax_arm(train, job["seeds"], compiler_options(), vmap_over_devices)
