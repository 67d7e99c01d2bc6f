"""The SVD step of FedSVD (arXiv:2505.12805): its algebra."""

import pytest
import torch

from strategies.fedsvd import orthogonalised

P, Q, R = 7, 11, 4


def factors(kind="full", dtype=torch.float64):
    """A [R, Q] and B [P, R]; of B also of rank 2, or zero."""
    draw = torch.Generator().manual_seed(3)
    a, b = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((R, Q), (P, R)))
    if kind == "rank 2":
        b = b[:, :2] @ torch.randn(2, R, generator=draw, dtype=torch.float64)
    if kind == "zero":
        b = torch.zeros_like(b)
    return a.to(dtype), b.to(dtype)


def span(a):
    """The projection onto the span of the rows of A."""
    basis = torch.linalg.qr(a.T)[0]
    return basis @ basis.T


KINDS = ["full", "rank 2", "zero"]

# --- 5.5: one SVD --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_an_svd_changes_no_product_and_rows_are_orthonormal_after_it(kind, dtype, close):
    a, b = factors(kind, dtype)
    new_a, new_b = orthogonalised(a, b)
    assert (new_a.dtype, new_b.dtype) == (dtype, dtype)
    before, after = b.double() @ a.double(), new_b.double() @ new_a.double()
    assert float((after - before).norm()) <= close * max(float(before.norm()), 1)
    torch.testing.assert_close(new_a @ new_a.T, torch.eye(R, dtype=dtype), rtol=0, atol=10 * close)


@pytest.mark.parametrize("kind", KINDS)
def test_bs_columns_are_orthogonal_longest_first(kind):
    _, b = orthogonalised(*factors(kind))
    gram = b.T @ b
    lengths = gram.diagonal()
    torch.testing.assert_close(gram, torch.diag(lengths), rtol=0, atol=1e-12)
    assert (lengths[:-1] >= lengths[1:] - 1e-12).all()
    values = torch.linalg.svdvals(torch.mm(*factors(kind)[::-1]))[:R]
    torch.testing.assert_close(lengths.sqrt(), values, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_as_rows_span_what_they_spanned_whatever_the_rank_of_b(kind):
    a, b = factors(kind)
    new_a, _ = orthogonalised(a, b)
    torch.testing.assert_close(span(new_a), span(a))


def test_b_zero_stays_zero():
    _, b = orthogonalised(*factors("zero"))
    assert torch.equal(b, torch.zeros(P, R, dtype=torch.float64))


def test_of_a_b_of_rank_two_the_other_columns_become_zero():
    _, b = orthogonalised(*factors("rank 2"))
    assert float(b[:, 2:].abs().max()) < 1e-12 < float(b[:, 1].norm())


@pytest.mark.parametrize("kind", ["full", "rank 2"])
def test_a_second_time_changes_nothing(kind):
    once = orthogonalised(*factors(kind))
    twice = orthogonalised(*once)
    rank = R if kind == "full" else 2  # beyond it, any basis of the rest of the span is as good
    torch.testing.assert_close(twice[0][:rank], once[0][:rank])
    torch.testing.assert_close(twice[1], once[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_entry_of_each_row_of_a_is_positive(kind):
    a, _ = orthogonalised(*factors(kind))
    assert (a.gather(1, a.abs().argmax(1, keepdim=True)) > 0).all()


def test_weights_of_16_bits_are_factored_in_64():
    a, b = factors(dtype=torch.bfloat16)
    new_a, new_b = orthogonalised(a, b)
    wanted = orthogonalised(a.double(), b.double())
    torch.testing.assert_close(new_a, wanted[0].bfloat16())
    torch.testing.assert_close(new_b, wanted[1].bfloat16())
