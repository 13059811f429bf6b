import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.packing import cut_shares, pack_documents


def offsets_of(sizes: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 12))
def test_every_token_but_a_documents_first_is_a_label_exactly_once(sizes: list[int], length: int) -> None:
    offsets = offsets_of(sizes)
    windows = pack_documents(offsets, length)

    labels = [
        place
        for start, size in zip(windows.starts, windows.sizes, strict=True)
        for place in range(start + 1, start + size)
    ]
    firsts = set(offsets[:-1].tolist())
    assert sorted(labels) == [place for place in range(int(offsets[-1])) if place not in firsts]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 12))
def test_no_window_overflows_and_no_fitting_document_is_cut(sizes: list[int], length: int) -> None:
    offsets = offsets_of(sizes)
    windows = pack_documents(offsets, length)

    filled = [windows.sizes[a:b].sum() for a, b in zip(windows.first_piece, windows.first_piece[1:], strict=False)]
    assert all(0 < tokens <= length + 1 for tokens in filled)
    assert cut_shares(offsets, windows)[0] == 0.0


def test_best_fit_fills_windows_that_first_come_placement_would_leave_open() -> None:
    windows = pack_documents(offsets_of([6, 4, 7, 3, 5, 5]), 9)
    assert len(windows) == 3
    assert windows.padding_share == 0.0


def test_concatenating_and_cutting_splits_documents_across_borders() -> None:
    offsets = offsets_of([6, 6, 8])  # windows of 10: the second document crosses the first border
    assert cut_shares(offsets, pack_documents(offsets, 9)) == (0.0, 1 / 3)


def test_empty_documents_and_no_documents_are_fine() -> None:
    assert len(pack_documents(offsets_of([]), 8)) == 0
    assert len(pack_documents(offsets_of([0, 0]), 8)) == 0
