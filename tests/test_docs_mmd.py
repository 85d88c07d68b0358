"""The code of docs/mmd.md runs, and its table names every kernel."""

import re

from tests.page_blocks import DOCS, run_blocks

import batchwright as bw


def test_the_blocks_of_the_page_run_in_order(capsys):
    names, number = run_blocks("mmd.md")
    assert number == 6
    told = capsys.readouterr().out
    assert names["tables"].p_value < 0.05
    buffered, larger, contiguous, interleaved = names["rows"]
    assert larger.ratio > 2 * buffered.ratio > 4
    assert contiguous.adjusted_p_value == 0.04
    assert interleaved.adjusted_p_value > 0.05
    assert "batches of 32:" in told
    assert names["score"].low < names["whole"].value < names["score"].high


def test_the_block_of_the_gan_page_runs():
    names, number = run_blocks("gan.md")
    assert number == 1
    assert names["samples"].shape == (16, 64)


def test_the_table_names_every_kernel():
    text = (DOCS / "mmd.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)\(", text, flags=re.MULTILINE))
    kernels = {
        name
        for name in bw.gan.__all__
        if isinstance(getattr(bw.gan, name), type) and issubclass(getattr(bw.gan, name), bw.gan.Kernel)
    }
    assert rows == kernels - {"Kernel"}
