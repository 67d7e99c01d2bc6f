"""Tasks from any `nn.Module`, the models of the scenarios, and adapters.

tasks         `classification` and `supervised`: a task from any module and loss
vision        logistic regression, MLP, LeNet, small ResNets
transformer   a small text encoder
huggingface   pretrained models and tokenizers of `transformers`
pretraining   pretrain a text model, as a base for adapters
lora          LoRA adapters
dropout       dropout with keyed masks
vectorized    k clients' networks as one program
black_box     functions of which only values are known
"""
