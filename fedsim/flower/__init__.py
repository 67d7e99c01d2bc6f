"""The Flower adapter: the only part of fedsim that imports `flwr`.

cohort.py      the exchange of a run on one machine: Messages answered a chunk of clients at a time
grid.py        CohortGrid, the same as a Flower Grid in this process
exchange.py    the ServerApp, and the exchange of work and replies over any Grid
client.py      the ClientApp: one client's local work on a node
messages.py    work and replies as Messages
wire.py        states and updates as Flower records, free of copies within a process
strategy.py    our strategies as a Flower Strategy, for other people's ServerApps

The two apps that `flwr run .` starts are in `fedsim.cli.flower_app`.
"""

from flwr.app import Context as Context
