"""How many examples and time-steps a network was shown, from the shapes of its calls."""

import torch

__all__ = ["Batches"]


class Batches:
    """How many examples passed, from the calls of whatever runs first: the nodes, or an ANN's first layer.

    Args:
        spiking: the calls are a SpikingJelly node's: in step mode 's' there are T to a batch.
    """

    def __init__(self, spiking: bool):
        self.spiking = spiking
        self.calls: list[tuple[int | None, int]] = []  # time-steps, None where a call does not tell, and examples
        self.sequences: list[int] = []  # calls from each reset to the next

    def add(self, lead: torch.Size, step_mode: str, is_reset: bool) -> None:
        """A call with these dimensions before the neurons or channels; ``is_reset``: nothing is left of another."""
        steps, lead = (lead[0], lead[1:]) if step_mode == "m" and lead else (None, lead)
        self.calls.append((steps, lead[0] if lead else 1))
        if is_reset or not self.sequences:
            self.sequences.append(0)
        self.sequences[-1] += 1

    def time_steps(self) -> int:
        """T: of a call in step mode 'm', and in 's' the calls from one reset to the next."""
        told = {steps for steps, _ in self.calls}
        if self.spiking and told == {None}:
            told = set(self.sequences)
        if self.spiking and len(told) > 1:
            ran = " and ".join(sorted("1 in step mode 's'" if steps is None else str(steps) for steps in told))
            raise ValueError(
                f"batches ran {ran} time-steps: count those of one T at a time, and in step mode 's' reset the "
                "network after each of them, by functional.reset_net(net), or give time_steps"
            )
        return next((steps for steps in told if steps is not None), 1)

    def sizes(self, time_steps: int) -> list[int] | None:
        """Examples of each batch; None where images that run once and those that run T times look alike."""
        told = {steps for steps, _ in self.calls}
        examples = [examples for _, examples in self.calls]
        if told == {time_steps} or (told == {None} and time_steps == 1):
            return examples
        if not told or (not self.spiking and told <= {None, 1}):
            return None
        batches = [examples[start : start + time_steps] for start in range(0, len(examples), time_steps)]
        whole = not any(calls % time_steps for calls in self.sequences)
        if told == {None} and whole and all(len(set(batch)) == 1 for batch in batches):
            return [batch[0] for batch in batches]
        ran = sorted({steps for steps in told if steps is not None} or set(self.sequences))
        raise ValueError(f"time_steps is {time_steps}, and the network ran {' and '.join(map(str, ran))} of them")

    def examples(self, stated: int | None, time_steps: int) -> int:
        """All that passed; ``stated``, where it is not None, must be as many."""
        sizes, seen = self.sizes(time_steps), sum(examples for _, examples in self.calls)
        if sizes is not None:
            possible = {float(sum(sizes))}
        elif stated is None:
            raise ValueError(
                "where no SpikingJelly node runs, inputs do not tell examples from time-steps: give examples"
            )
        else:
            possible = {seen, seen / time_steps} if seen else {float(stated)}
        if stated is not None and stated not in possible:
            raise ValueError(
                f"examples is {stated}, and the network saw {' or '.join(f'{n:g}' for n in sorted(possible))}"
            )
        return int(next(iter(possible))) if stated is None else stated
