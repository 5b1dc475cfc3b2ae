"""A report about quantization as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ostro.quant.report import Divergence, QuantizationReport

MIB = 1 << 20


def render(report: QuantizationReport) -> RenderableType:
    """What `rich.console.Console.print` shows."""
    parts = [_weights(report)]
    if report.divergence is not None:
        parts.append(_divergence(report.divergence))
    return Group(*parts)


def _weights(report: QuantizationReport) -> Table:
    weighed = any(kind.weighted_rmse is not None for kind in report.kinds)
    table = Table(title="Weights", show_footer=True)
    table.add_column("matrices", "total")
    table.add_column("count", f"{sum(kind.count for kind in report.kinds)}", justify="right")
    table.add_column("format")
    table.add_column("MiB", f"{report.nbytes / MIB:,.1f}", justify="right")
    table.add_column("bits/weight", f"{report.bits_per_weight:.3f}", justify="right")
    table.add_column("relative RMSE", justify="right")
    if weighed:
        table.add_column("weighted", justify="right")
    for kind in report.kinds:
        cells = [
            kind.kind,
            f"{kind.count}",
            ", ".join(kind.formats),
            f"{kind.nbytes / MIB:,.1f}",
            f"{kind.bits_per_weight:.3f}",
            f"{kind.relative_rmse:.4%}",
        ]
        if weighed:
            cells.append("-" if kind.weighted_rmse is None else f"{kind.weighted_rmse:.4%}")
        table.add_row(*cells)
    return table


def _divergence(divergence: Divergence) -> Table:
    change = divergence.perplexity / divergence.source_perplexity - 1
    table = Table(title=f"Answers, {divergence.tokens:,} tokens", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("KL divergence, mean", f"{divergence.mean_kl:.5f}")
    table.add_row("KL divergence, 99th percentile", f"{divergence.p99_kl:.4f}")
    table.add_row("KL divergence, largest", f"{divergence.max_kl:.4f}")
    table.add_row("same most probable token", f"{divergence.top1_agreement:.2%}")
    table.add_row("perplexity of the source", f"{divergence.source_perplexity:.4f}")
    table.add_row("perplexity", f"{divergence.perplexity:.4f} ({change:+.2%})")
    return table
