"""tslaw: split a reasoning model's memory between weights and thinking, with numbers and error bars."""

__version__ = "0.1.0"
