"""Speed benchmarks, measured side by side in one run; not part of the tests, nor installed.

`engine` compares our engine with other simulators, `growth` compares cohort sizes. `workloads`
defines what is trained, `contenders` the implementations that train it, `report` the table of
results, and `machine_load` measures how busy the machine is.
"""
