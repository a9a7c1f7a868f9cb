"""What must hold of the networks that a run keeps, whatever the method."""

from safetensors.torch import load_file


def check_kept(straight, killed, *, last, name):
    """Compare the files of epochs 1 and ``last`` of two runs with each other and with the weights at the end.

    Args:
        straight: Folder of a seed of a run that went straight to its end.
        killed: The same of one that was killed in its second epoch.
        last: Number of epochs.
        name: File name of the weights at the end.
    """
    for epoch in (1, last):
        file = f"epoch-{epoch:03d}.safetensors"
        assert (straight / file).read_bytes() == (killed / file).read_bytes()
    first, final = (load_file(straight / f"epoch-{epoch:03d}.safetensors") for epoch in (1, last))
    end = load_file(straight / name)
    assert first.keys() == final.keys() == end.keys()
    assert all(final[key].equal(tensor) for key, tensor in end.items())
    assert any(not first[key].equal(tensor) for key, tensor in end.items())
