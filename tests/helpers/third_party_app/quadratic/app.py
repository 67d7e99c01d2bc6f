"""Client i takes one step of x <- x - lr (x - i) and counts its own rounds in its state."""

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    number = int(context.node_config["partition-id"])
    seen = context.state.setdefault("seen", ConfigRecord({"rounds": 0}))
    seen["rounds"] += 1
    x = message.content["arrays"]["x"].numpy()
    x = x - message.content["config"]["lr"] * (x - number)
    metrics = MetricRecord({"num-examples": number + 1, "rounds": seen["rounds"]})
    arrays = ArrayRecord({"x": Array(x)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(
        grid,
        ArrayRecord({"x": Array(np.zeros(3))}),
        num_rounds=int(context.run_config["rounds"]),
        train_config=ConfigRecord({"lr": 0.5}),
    )
    rounds = [dict(record) for record in result.train_metrics_clientapp.values()]
    found = {"x": result.arrays["x"].numpy().tolist(), "metrics": rounds}
    Path(str(context.run_config["result"])).write_text(json.dumps(found))
