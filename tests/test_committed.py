"""openko.committed: of a run's outputs what a reader should see stays, whichever way the notebook was run."""

from nbformat.v4 import new_code_cell, new_notebook, new_output

from openko import committed


def stripped(*texts):
    """The text that is left of stdout, which a kernel sends in pieces."""
    outputs = [new_output("stream", name="stdout", text=text) for text in texts]
    content = new_notebook(cells=[new_code_cell("train()", outputs=[*outputs, new_output("stream", name="stderr", text="warning")])])
    committed._strip(content)
    return [output.text for output in content.cells[0].outputs]


def test_a_bar_that_was_taken_away_leaves_nothing():
    assert stripped("\rtrain:  10%|█         | 1/10 [00:01<", "\rtrain: 100%|██████████| 10/10", "\r                 \r") == []


def test_beside_a_bar_the_printed_lines_stay():
    assert stripped("before\n", "\rtrain:  10%|█  | 1/10", "\r               \r", "final loss 2.5 nats\n") == [
        "before\nfinal loss 2.5 nats\n"
    ]
