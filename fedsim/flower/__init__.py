"""The Flower adapter: the only part of fedsim that imports `flwr`.

wire.py        states and updates as Flower records, free of copies within a process
grid.py        CohortGrid, a Flower Grid that answers a whole cohort at once, in this process
client.py      the ClientApp: one client's local work
server.py      the ServerApp, and the exchange of work and replies over any Grid
strategy.py    our strategies as a Flower Strategy, for other people's ServerApps
apps.py        the two apps that `flwr run .` starts (see pyproject.toml)
"""
