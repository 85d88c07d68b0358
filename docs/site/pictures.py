"""The pictures of the concept pages, each drawn by code of the library in a second or two; `make docs` makes them anew."""

import io
import math

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch

import batchwright as bw
from batchwright.measure.curvature.edge_level import edge_level
from batchwright.nn.channel_state import ChannelState
from batchwright.nn.kalman_fusion import fuse
from batchwright.nn.linear_moments import linear_moments
from batchwright.planning.laws import fastest_batch_size, steps_ratio
from batchwright.tasks.noisy_quadratic import QuadraticModel, noisy_quadratic_problem

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#e69f00", "#009e73", "#57606a"
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.figsize": (6.4, 3.6),
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "batchwright",
}


def made():
    """All pictures as SVG, by name."""
    return {name: draw_one(name) for name in PICTURES}


def draw_one(name):
    """One picture as SVG."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(layout="constrained")
        PICTURES[name](axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc=LEGENDS.get(name, "upper left"))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    return buffer.getvalue()


def quadratic_at(share):
    """The noisy quadratic with its model moved by this share of the way to the optimum."""
    problem = noisy_quadratic_problem()
    model = QuadraticModel(problem.curvature.float(), problem.optimum.float())
    with torch.no_grad():
        model.parameters_vector.copy_(share * problem.optimum)
    return problem, model


def noise_scale(axes):
    """Estimates with their intervals against the known value, by the number of batches."""
    problem, model = quadratic_at(0.5)
    truth = problem.noise_scale(model.parameters_vector.detach())
    counts = [2, 4, 8, 16, 32, 64, 128]
    for shift, (method, colour) in zip((0.95, 1.05), (("micro-batch", BLUE), ("per-example", ORANGE)), strict=True):
        found = []
        for number in counts:
            generator = torch.Generator().manual_seed(number)
            batches = [
                problem.noise[torch.randint(len(problem.noise), (16,), generator=generator)].float()
                for _ in range(number)
            ]
            found.append(bw.measure.noise_scale(model, lambda m, x: m(x), batches, method=method))
        x = [shift * number for number in counts]
        y = [each.value if math.isfinite(each.value) else math.nan for each in found]
        low = [value - each.low for value, each in zip(y, found, strict=True)]
        high = [min(each.high, 4 * truth) - value for value, each in zip(y, found, strict=True)]
        axes.errorbar(x, y, [low, high], fmt="o", color=colour, capsize=3, label=f"method={method!r}, 95 %")
    axes.axhline(truth, color=GREY, ls="--", label=f"known: {truth:.1f}")
    axes.set(xscale="log", xlabel="batches of 16 examples", ylabel="noise scale (examples)", ylim=(0, 3 * truth))
    axes.set_xticks(counts, [str(number) for number in counts])
    axes.minorticks_off()


def critical_batch(axes):
    """Steps and examples to a target by batch size, exact for the noisy quadratic with the lr tuned at each size."""
    problem = noisy_quadratic_problem()
    start, target = torch.zeros(len(problem.optimum)), 1.0
    sizes = [2**k for k in range(11)]
    steps = [min(_steps_to(problem, start, target, lr, size) for lr in _lrs()) for size in sizes]
    # The two ends of the law, S_min (1 + B_crit / B), from the largest and the smallest size.
    least, most = steps[-1], steps[0] * sizes[0]
    critical = most / least
    law = [least * steps_ratio(size, critical) for size in sizes]
    axes.plot(sizes, steps, "o", color=BLUE, label="steps to target, lr tuned at each size")
    axes.plot(sizes, law, color=BLUE, lw=1, label="$S_{min}(1 + B_{crit}/B)$ through its ends")
    axes.plot(
        sizes, [n * size for n, size in zip(steps, sizes, strict=True)], "s", color=ORANGE, label="examples to target"
    )
    fastest = fastest_batch_size(critical, 10.0, 1.0)
    axes.axvline(critical, color=GREY, ls="--", lw=1)
    axes.axvline(fastest, color=GREEN, ls=":", lw=1.5)
    axes.text(critical, most * 3, " $B_{crit}$", color=GREY, ha="left")
    axes.text(fastest, most * 0.25, " fastest, a/b = 10", color=GREEN, ha="left", va="center")
    axes.set(
        xscale="log", yscale="log", xlabel="batch size (examples)", ylabel="steps, examples", ylim=(None, most * 60)
    )


def _lrs():
    return [2 ** (-k / 2) for k in range(-1, 16)]


def _steps_to(problem, start, target, lr, size):
    """The first step at which the mean excess loss is below the target; infinite where it never is."""
    low, high = 0, 1
    while problem.expected_excess_loss(start, lr=lr, batch_size=size, num_steps=high) > target:
        low, high = high, 2 * high
        if high > 2**16:
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        below = problem.expected_excess_loss(start, lr=lr, batch_size=size, num_steps=middle) <= target
        low, high = (low, middle) if below else (middle, high)
    return high


def stability(axes):
    """The level of batch sharpness by momentum: small batches, large batches, and the exact boundary between."""
    momenta = [k / 100 for k in range(96)]
    for share, colour, label in (
        (0.0, BLUE, "no noise: 2(1 + b)/lr"),
        (0.1, GREEN, "a tenth is noise"),
        (0.5, ORANGE, "half is noise"),
        (1.0, GREY, "all noise: 2(1 − b)/lr"),
    ):
        level = [edge_level(lr=0.1, noise_share=share, momentum=b, nesterov=False) for b in momenta]
        axes.plot(momenta, level, color=colour, label=label)
    axes.set(xlabel="momentum b", ylabel="stable below, lr = 0.1", ylim=(0, 42))


def token_budget(axes):
    """Batch size, step size and steps against the budget, as multiples of the base's."""
    base = bw.TokenBudget(batch_size=256, sequence_length=1024, lr=3.6e-4, tokens=1.3e9)
    ratios = [2 ** (k / 2) for k in range(15)]
    for rule, style in (("bst", "-"), ("square-root", "--")):
        runs = [bw.planning.token_budget(base=base, tokens=base.tokens * ratio, rule=rule) for ratio in ratios]
        for colour, label, values in (
            (BLUE, "batch size", [run.batch_size / base.batch_size for run in runs]),
            (ORANGE, "step size", [run.lr / base.lr for run in runs]),
            (GREEN, "steps", [run.num_steps / base.num_steps for run in runs]),
        ):
            axes.plot(ratios, values, style, color=colour, label=f"{label}, {rule}")
    axes.set(xscale="log", yscale="log", xlabel="tokens, over those of the base", ylabel="over the base's")


def statistics(axes):
    """Error of the variance a layer normalizes by: that of the batch alone, and fused with a prior that is right or wrong."""
    sizes, repeats, width, gain = [2, 4, 8, 16, 32, 64, 128], 200, 64, 0.9
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(width, width, generator=generator) / width**0.5
    # What is known of inputs that the layer before has normalized: mean 0, variance 1, and taken as independent.
    prior = linear_moments(ChannelState(mean=torch.zeros(1, width), var=torch.ones(1, width)), weight, None)
    for correlation, colour, words in ((0.0, GREEN, "independent inputs"), (0.2, ORANGE, "inputs correlated by 0.2")):
        truth = (1 - correlation) * weight.square().sum(1) + correlation * weight.sum(1).square()
        alone, fused = [], []
        for size in sizes:
            own = torch.randn(repeats, size, width, generator=generator) * (1 - correlation) ** 0.5
            x = own + torch.randn(repeats, size, 1, generator=generator) * correlation**0.5
            outputs = x @ weight.T
            means, variances = outputs.mean(1), outputs.var(1, correction=0)
            corrected = fuse(means, variances, prior, gain)[1]
            alone.append(float((variances / truth - 1).square().mean().sqrt()))
            fused.append(float((corrected / truth - 1).square().mean().sqrt()))
        if correlation == 0:
            axes.plot(sizes, alone, "o-", color=BLUE, label="of the ghost batch alone")
        axes.plot(sizes, fused, "s-", color=colour, label=f"Kalman, gain 0.9; {words}")
    axes.plot(sizes, [(2 / size) ** 0.5 for size in sizes], "--", color=GREY, label="$\\sqrt{2/n}$")
    axes.set(
        xscale="log", yscale="log", xlabel="examples that share statistics", ylabel="relative error of the variance"
    )
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.tick_params(axis="x", which="minor", bottom=False)


def safe_updates(axes):
    """Guaranteed improvement a trajectory by the batch: both rules, and what each chooses."""
    grad, d, smoothness = torch.tensor([1.0, -2.0]), 10.0, 5.0
    sizes = [int(26 * 1.12**k) for k in range(48)]
    for rule, colour in (("tight", BLUE), ("published", ORANGE)):
        gains = [
            bw.rl.optimal_step(grad, d=d, smoothness=smoothness, rule=rule, batch_size=n).guaranteed_improvement / n
            for n in sizes
        ]
        axes.plot(sizes, gains, color=colour, label=f"rule={rule!r}")
        best = bw.rl.optimal_step(grad, d=d, smoothness=smoothness, rule=rule)
        axes.plot(best.batch_size, best.guaranteed_improvement / best.batch_size, "o", color=colour)
    axes.set(
        xscale="log", xlabel="trajectories an update", ylabel="guaranteed improvement a trajectory", ylim=(0, None)
    )


def batched_bandits(axes):
    """Rounds of each schedule for 1,000 trials: how many there are and how long."""
    rules = (("sqrt", BLUE), ("exponent", ORANGE), ("geometric", GREEN))
    for row, (rule, colour) in enumerate(rules):
        left = 0
        for length in bw.bandits.batch_schedule(1000, rule=rule):
            axes.barh(row, length, left=left, color=colour, edgecolor="white")
            if length > 40:
                axes.text(left + length / 2, row, str(length), ha="center", va="center", color="white")
            left += length
    axes.set_yticks(range(len(rules)), [rule for rule, _ in rules])
    axes.set(xlabel="trials; each block is one parallel round")
    axes.grid(axis="y", visible=False)


def start(axes):
    """What a plan weighs: time to target by batch size on a device with 50 examples' worth of overhead a step."""
    sizes = [2 ** (k / 4) for k in range(0, 49)]
    for critical, colour in ((100, BLUE), (400, ORANGE), (1600, GREEN)):
        times = [steps_ratio(size, critical) * (50 + size) for size in sizes]
        best = fastest_batch_size(critical, 50, 1)
        least = steps_ratio(best, critical) * (50 + best)
        axes.plot(sizes, [time / least for time in times], color=colour, label=f"$B_{{crit}}$ = {critical}")
        axes.plot(best, 1, "o", color=colour)
    axes.set(
        xscale="log",
        xlabel="batch size (examples)",
        ylabel="time to target, over the least",
        xlim=(4, 4096),
        ylim=(0.9, 4),
    )


LEGENDS = {
    "noise-scale": "upper right",
    "safe-updates": "upper right",
    "start": "upper center",
    "statistics": "lower left",
}
PICTURES = {
    "batched-bandits": batched_bandits,
    "critical-batch": critical_batch,
    "noise-scale": noise_scale,
    "safe-updates": safe_updates,
    "stability": stability,
    "start": start,
    "statistics": statistics,
    "token-budget": token_budget,
}
