"""How Hypothesis tries: the same examples in every run where `CI` is set, new ones elsewhere."""

from hypothesis import settings

# A busy machine is no failure. Hypothesis's own profile for CI is the parent there.
settings.register_profile("unit", settings(), deadline=None, max_examples=100)
settings.load_profile("unit")
