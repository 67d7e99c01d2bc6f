"""Speed, measured side by side in one run; never asserted in a test, nor installed.

`engine` holds our engine against its peers, `growth` against itself as the cohort grows.
`workloads` says what is trained, `contenders` who trains it, `report` what is made of the seconds,
`quiet` whether the machine was free for it.
"""
