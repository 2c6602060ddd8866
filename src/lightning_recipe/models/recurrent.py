"""A recurrent encoder that reads padded sequences as if they had no padding."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence


class RecurrentEncoder(nn.Module):
    """Encode each sequence as the final hidden state of the last layer, in one or both directions.

    Layers are separate modules so that layer norm can stand between them. Sequences are packed: the forward
    direction ends at each sequence's own last step, the backward direction begins there, and padding
    changes neither output nor gradient. The forget gate's bias is 1 in total at the start (Goodfellow et
    al. 2016, section 10.10.2); PyTorch adds two biases, so one is 1 and the other 0.

    Args:
        input_size: Number of features of each step.
        hidden_size: Number of hidden units of each layer and direction.
        num_layers: Number of layers.
        cell: "lstm" or "gru".
        bidirectional: Whether to read in both directions.
        layer_norm: Whether to normalise what each layer puts out.
        dropout: Dropout after each layer, from 0 to below 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        cell: Literal["lstm", "gru"],
        bidirectional: bool,
        layer_norm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        for name, value in [
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
        ]:
            if value < 1:
                raise ValueError(f"{name}={value} was given, but it counts something: set it to at least 1.")
        cells: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
        if cell not in cells:
            raise ValueError(f"cell={cell!r} was given, but only lstm and gru exist: choose one of them.")
        self.output_size = hidden_size * (2 if bidirectional else 1)
        self.layers = nn.ModuleList(
            cells[cell](
                input_size if i == 0 else self.output_size,
                hidden_size,
                batch_first=True,
                bidirectional=bidirectional,
            )
            for i in range(num_layers)
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(self.output_size) if layer_norm else nn.Identity() for _ in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)
        for layer in self.layers:
            if isinstance(layer, nn.LSTM):
                set_forget_gate_bias(layer)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        """Return the encodings [N, D] of padded sequences [N, T, F] with lengths [N] between 1 and T."""
        # Packing wants the lengths on the host.
        packed = pack_padded_sequence(x, length.cpu(), batch_first=True, enforce_sorted=False)
        final = x.new_zeros(0)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            packed, state = layer(packed)
            hidden = state[0] if isinstance(state, tuple) else state  # [directions, N, H], in the batch's order
            final = self.dropout(norm(hidden.transpose(0, 1).flatten(1)))
            packed = PackedSequence(
                self.dropout(norm(packed.data)),
                packed.batch_sizes,
                packed.sorted_indices,
                packed.unsorted_indices,
            )
        return final


def set_forget_gate_bias(lstm: nn.LSTM, bias: float = 1.0) -> None:
    """Set the forget gates' total bias; PyTorch orders the gates as input, forget, cell, output."""
    size = lstm.hidden_size
    with torch.no_grad():
        for name, parameter in lstm.named_parameters():
            if name.startswith("bias_ih"):
                parameter[size : 2 * size] = bias
            elif name.startswith("bias_hh"):
                parameter[size : 2 * size] = 0.0
