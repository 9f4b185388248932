"""No test depends on how fast the machine is, nor do the examples that hypothesis draws."""

from importlib.util import find_spec

if find_spec("hypothesis"):  # the tests of vLLM have an environment without it
    from hypothesis import HealthCheck, settings

    settings.register_profile("retell", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("retell")
