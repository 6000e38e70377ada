"""Keys from keys are those of `jax.random.split`."""

import jax
import numpy as np

from purejaxppo.keys import split_each


def test_keys_are_those_of_splits_of_splits():
    """Of one key into 2 x 5, and of seven into 2 x 3 each."""
    one, split = jax.random.key(3), jax.random.split
    many = split(one, 7)
    data = jax.random.key_data
    np.testing.assert_array_equal(
        data(split_each(one, 2, 5)), data(jax.vmap(lambda k: split(k, 5))(split(one)))
    )
    each = jax.vmap(lambda k: jax.vmap(lambda k: split(k, 3))(split(k)))(many)
    np.testing.assert_array_equal(data(split_each(many, 2, 3)), data(each))
