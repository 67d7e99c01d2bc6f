"""One runnable script per experiment: data split x model x strategy x privacy.

A script has one function `scenario(*, knob=..., ...) -> Scenario`; the command line is made from
its signature. Run one with `fedsim run NAME` or `python -m scenarios.NAME`.
"""
