"""The whole stream on one machine, in a minute: `python -m ops demo`."""

from ops.demo.run import demo

__all__ = ["demo"]
