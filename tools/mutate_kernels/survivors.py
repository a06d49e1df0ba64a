"""The mutants that no check can see, each with the reason why it is right; any other one that survives is a gap."""

from mutate_kernels.mutants import Key, Mutant

#: By reason, then by source, function and statement: the changes, as ``Key`` names them.
_REASONS: dict[str, dict[tuple[str, str, str], tuple[str, ...]]] = {
    "direct is 0 or 1": {
        ("kernels.h", "kept", "const float direct = HARD_RESET ? 1.0f - fire(d, h) : 1.0f"): (
            "const [float -> int] direct = HARD_RESET ? 1.0f - fire(d, h) : 1.0f",
        ),
    },
    "only blocks that run a norm read it, and those are tested in tests/neuron/test_normalised.py": {
        ("kernels.h", "backward_block", "give(block, grad_x_seq, (first + s) * n, grad_x, x_seq)"): (
            "give(block, grad_x_seq, (first + s) * n, grad_x, [x_seq -> v_init])",
        ),
    },
    "t is a multiple of SEGMENT there": {
        ("kernels.h", "forward_block", "checkpoints && t > 0 && t % SEGMENT == 0"): ("t > [0 -> 1]",),
    },
    "another room that is free: each lane is read before it is written": {
        ("kernels.h", "forward_block", "const float *x = input(block, x_room, x_seq, t * x_step)"): (
            "input(block, [x_room -> spike_room], x_seq, t * x_step)",
        ),
        ("kernels.h", "forward_block", "float *spike = block.place(spike_room, spike_seq, t * n)"): (
            "block.place([spike_room -> x_room], spike_seq, t * n)",
        ),
        ("kernels.h", "backward_block", "const float *x = input(block, room[0], x_seq, (first + ..."): (
            "room[[0 -> 1]]",
        ),
        ("kernels.h", "backward_block", "const float *from_v = block.load(room[2], grad_v_seq, ..."): (
            "room[[2 -> 3]]",
        ),
        ("kernels.h", "backward_block", "float *grad_x = block.place(room[3], grad_x_seq, (first ..."): (
            "room[[3 -> 2]]",
        ),
    },
    "more room than is used": {
        ("kernels.h", "backward_block", "float room[4][LANES], grad_v[LANES], v[LANES], ..."): ("room[[4 -> 5]]",),
    },
    "first is segment times SEGMENT": {
        ("kernels.h", "backward_block", "segment > 0"): ("[segment -> first] > 0",),
    },
    "there are checkpoints where segment > 0": {
        ("kernels.h", "backward_block", "block.copy(v, checkpoints, (segment - 1) * n, 0.0f)"): (
            "block.copy(v, checkpoints, (segment - 1) * n, [0.0f -> 1.0f])",
        ),
    },
    "speed only": {
        ("kernels.h", "backward_block", "UNROLLED"): ("[UNROLLED -> ]",),
        ("kernels.h", "backward_block", "UNROLLED #2"): ("[UNROLLED -> ]",),
    },
    "computed in the place of an earlier time-step, which is written later, and copied to its own": {
        ("kernels.h", "backward_block", "float *grad_x = block.place(room[3], grad_x_seq, (first ..."): (
            "(first + s) [* -> /] n",
            "[first -> segment] + s",
            "(first + s) * [n -> x_step]",
            "(first + s) * [n -> grad_spike_step]",
        ),
    },
    "nobody reads this argument": {
        ("Block of float", "place", "INLINE float *place(float (&room)[1], float *, long ..."): (
            "place(float (&room)[1], float *, [long long -> int]) const",
        ),
        ("Block of half2", "place", "INLINE float *place(float (&room)[2], half2 *, long ..."): (
            "place(float (&room)[2], half2 *, [long long -> int]) const",
        ),
    },
    "lane by lane, which is right and slower": {
        ("Block of half2", "paired", "return both() && (size_t)at % sizeof(half2) == 0"): (
            "(size_t)at [% -> /] sizeof(half2)",
            "(size_t)at % sizeof(half2) == [0 -> 1]",
            "(size_t)[at -> at + 1]",
        ),
        ("Block of half2", "copy", "paired(at)"): ("[paired(at) -> false]",),
        ("Block of half2", "store", "paired(at)"): ("[paired(at) -> false]",),
    },
    "the pair, then both lanes again: the same numbers": {
        ("Block of half2", "copy", "else"): ("[else -> ]",),
        ("Block of half2", "store", "else"): ("[else -> ]",),
    },
    "through the room, which is right and slower": {
        ("Block of the CPU", "whole", "return i + LANES <= n"): ("i + LANES [<= -> <] n",),
        ("Block of the CPU", "load", "whole()"): ("[whole() -> false]",),
        ("Block of the CPU", "load", "return from + begin + i"): ("[return from + begin + i -> ]",),
    },
    "lanes behind the last neuron are not stored": {
        ("Block of the CPU", "load", "copy(room, from, begin, 0.0f)"): ("copy(room, from, begin, [0.0f -> 1.0f])",),
    },
    "copied onto itself, which changes nothing and is slower": {
        ("Block of the CPU", "store", "to + begin + i != from"): (
            "[to + begin + i != from -> true]",
            "to [+ -> -] begin",
            "to + begin [+ -> -] i",
            "to + [begin -> i]",
            "to + begin + [i -> 0]",
            "to + begin + [i -> begin]",
        ),
    },
    "at the joints 0 and 1 both pieces have this value": {
        ("rectifier", "rectified_over_half", "return (tanhf(3.0f * ((h < 0.0f ? 0.0f : (h > 1.0f ? ..."): (
            "h [< -> <=] 0.0f",
            "h [> -> >=] 1.0f",
            "h [> -> >=] 1.0f #2",
            "h [< -> <=] 0.0f #2",
        ),
        ("rectifier", "rectify_gradient", "return ((h < 0.0f || h > 1.0f ? 0.0f : 1.0f) * 3.0f * ..."): (
            "h [< -> <=] 0.0f #2",
            "h [> -> >=] 1.0f #2",
            "h [< -> <=] 0.0f #3",
            "h [> -> >=] 1.0f #3",
            "h [> -> >=] 1.0f #5",
            "h [< -> <=] 0.0f #5",
            "h [> -> >=] 1.0f #6",
            "h [< -> <=] 0.0f #6",
        ),
    },
    "outside [0, 1] the factor of this tanh is 0": {
        ("rectifier", "rectify_gradient", "return ((h < 0.0f || h > 1.0f ? 0.0f : 1.0f) * 3.0f * ..."): (
            "h < 0.0f ? [0.0f -> 1.0f] : (h > 1.0f ? 1.0f : h)",
            "h > [1.0f -> 2.0f] #2",
            "h > 1.0f ? [1.0f -> 0.0f] : h",
            "h > 1.0f ? [1.0f -> 2.0f] : h",
            "h < 0.0f ? [0.0f -> 1.0f] : (h > 1.0f ? 1.0f : h) #2",
            "h > [1.0f -> 2.0f] #3",
            "h > 1.0f ? [1.0f -> 0.0f] : h #2",
            "h > 1.0f ? [1.0f -> 2.0f] : h #2",
        ),
    },
    "within [0, 1] the root divides 0, and is not 0 itself": {
        ("rectifier", "rectify_gradient", "return ((h < 0.0f || h > 1.0f ? 0.0f : 1.0f) * 3.0f * ..."): (
            "h < [0.0f -> 1.0f] #5",
            "h < [0.0f -> 1.0f] #6",
        ),
    },
    "1 - |x| / V_th is 0 on the edge": {
        ("Triangular", "surrogate_gradient", "const float slope = (fabsf(over_threshold) < 0.75f ? ..."): (
            "fabsf(over_threshold) [< -> <=] 0.75f",
        ),
    },
}
#: The survivors, each with the reason why it is right.
JUSTIFIED = {
    Key(*place, change): reason
    for reason, places in _REASONS.items()
    for place, changes in places.items()
    for change in changes
}


def complaints(chosen: tuple[Mutant, ...], found: list[str]) -> list[str]:
    """Survivors without a reason, and reasons without a survivor."""
    survivors = [mutant.key for mutant, outcome in zip(chosen, found, strict=True) if outcome == "survived"]
    unjustified = [f"survived without a reason: {key}" for key in survivors if key not in JUSTIFIED]
    return unjustified + [f"justified, but no survivor: {key}" for key in JUSTIFIED if key not in survivors]
