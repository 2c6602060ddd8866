"""How far a student is from its teacher: the loss of distillation, and the form in which teachers' answers are kept."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightning_rules.combine.reading import Answer, Task

LARGEST = 6e4


def soft_answer(answer: Answer, task: Task) -> Tensor:
    """A teacher's answer, to be kept: log probabilities [N, C, ...], log odds [N, L], or means [N, D].

    Logarithms, since half precision then keeps the ratios of small probabilities, which a temperature brings to light,
    and nothing becomes 0: of a probability of 1e-9 it keeps two digits, and as a probability it would keep none.
    """
    if task == "regression":
        return answer.values
    values = answer.values.log_softmax(dim=1) if task == "multiclass" else answer.values
    return values.clamp(-LARGEST, LARGEST)  # half precision holds no more, and a class that is ruled out is -inf


def distillation_loss(student: Tensor, teacher: Tensor, task: Task, temperature: float) -> Tensor:
    """The loss of a student against its teacher's answers, mean over examples, times the temperature squared.

    The square keeps the gradient's size whatever the temperature (Hinton, Vinyals and Dean 2015, section 2).

    Args:
        student: Logits [N, C, ...] or [N, L], or values [N, D], within the graph.
        teacher: From :func:`soft_answer`, of the same shape.
        task: "multiclass": Kullback-Leibler divergence from the teacher, mean over examples (and pixels).
            "multilabel": the same for yes and no, mean over labels. "regression": mean squared error, without
            temperature.
        temperature: What both answers' logits are divided by, above 0.

    Raises:
        ValueError: The shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"The student answers {tuple(student.shape)}, the teacher {tuple(teacher.shape)}.")
    if task == "regression":
        return (student - teacher).square().mean()
    student, teacher = student / temperature, teacher / temperature
    if task == "multiclass":
        divergence = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True)
        return divergence.sum(dim=1).mean() * temperature**2
    yes = teacher.sigmoid()
    divergence = yes * (F.logsigmoid(teacher) - F.logsigmoid(student))
    divergence = divergence + (1 - yes) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return divergence.mean() * temperature**2
