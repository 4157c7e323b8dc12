import pytest
import torch

from trainer.learn import token_scores as module
from trainer.learn.token_scores import token_scores


def test_pieces_give_the_same_scores_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head, ids = torch.nn.Linear(8, 50, bias=False), torch.randint(0, 50, (23,))
    hidden = torch.randn(23, 8)
    results = []
    for piece_bytes in (module.PIECE_BYTES, 4 * 50 * 5, 1):
        monkeypatch.setattr(module, "PIECE_BYTES", piece_bytes)
        states = hidden.clone().requires_grad_()
        logp, entropy = token_scores(head, states, ids)
        logp.sum().backward()
        assert states.grad is not None and not entropy.requires_grad
        results.append(torch.cat([logp.detach(), entropy, states.grad.flatten()]))
    expected = torch.log_softmax(head(hidden), -1)
    assert torch.allclose(results[0][:23], expected[range(23), ids])
    assert torch.allclose(results[0][23:46], torch.distributions.Categorical(logits=expected).entropy(), atol=1e-6)
    assert torch.allclose(results[0], results[1], atol=1e-6) and torch.allclose(results[0], results[2], atol=1e-6)
