"""Worker: purejaxppo itself."""

from arm import Arm, jax_arm

from purejaxppo import PPOConfig, compiler_options, make_train, use_cores, vmap_over_devices


def make(job: dict) -> Arm:
    """The shape's configuration, as it is, on the devices and threads that suit it."""
    config = PPOConfig.from_dict(job["config"])
    use_cores(job["seeds"], config=config)
    train = make_train(config)
    return jax_arm(train, job["seeds"], compiler_options(), vmap_over_devices)
