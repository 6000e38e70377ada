"""Environments: by name, of ours or of suites, in JAX or on the host, and N of them as one.

A suite is imported when one of its environments is made, never with this package.
"""

from purejaxppo.envs.host import HostEnvironment
from purejaxppo.envs.host_program import make_host_vec_env
from purejaxppo.envs.registry import find_env, make_env, names
from purejaxppo.envs.vec_env import make_vec_env

__all__ = [
    "HostEnvironment",
    "find_env",
    "make_env",
    "make_host_vec_env",
    "make_vec_env",
    "names",
]
