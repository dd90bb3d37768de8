"""The whole stream on one machine, in a minute: `python -m ops demo`."""

from lab.demo.run import demo

__all__ = ["demo"]
