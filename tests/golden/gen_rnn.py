"""Golden values of recurrent layers from PyTorch: python tests/golden/gen_rnn.py writes tests/golden/rnn.safetensors.

The format is that of layers_common.py; the same names with the same arguments stand in tests/all/golden_rnn.rs.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from layers_common import case, draw, save

torch.manual_seed(5)


def flat(module, x, *state):
    """(y, h) or (y, h, c)."""
    if isinstance(module, nn.LSTM):
        y, (h, c) = module(x, state or None)
        return y, h, c
    return module(x, *state)


def packed(lengths):
    def call(module, x, *state):
        steps = x.shape[1 if module.batch_first else 0]
        p = pack_padded_sequence(x, lengths, batch_first=module.batch_first, enforce_sorted=False)
        y, *rest = flat(module, p, *state)
        y, _ = pad_packed_sequence(y, batch_first=module.batch_first, total_length=steps)
        return y, *rest

    return call


for name, kind in {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}.items():
    states = lambda *shape: [draw(*shape) for _ in range(2 if kind is nn.LSTM else 1)]
    case(f"{name}_plain", kind(3, 4), [draw(5, 2, 3)], call=flat)
    case(f"{name}_state", kind(3, 4, num_layers=2, batch_first=True), [draw(2, 4, 3), *states(2, 2, 4)], call=flat)
    case(f"{name}_both", kind(2, 3, num_layers=2, bidirectional=True, bias=False), [draw(4, 2, 2), *states(4, 2, 3)], call=flat)
    case(f"{name}_single", kind(3, 2), [draw(4, 3), *states(1, 2)], call=flat)
    case(f"{name}_packed", kind(2, 3, num_layers=2, bidirectional=True), [draw(5, 3, 2), *states(4, 3, 3)], call=packed([3, 5, 1]))
    case(f"{name}_packed_first", kind(2, 3, batch_first=True), [draw(3, 4, 2)], call=packed([2, 1, 4]))
case("rnn_relu", nn.RNN(3, 4, nonlinearity="relu"), [draw(5, 2, 3)], call=flat)

save(__file__, "rnn.safetensors")
