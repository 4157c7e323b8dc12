from types import SimpleNamespace

from trainer.stages import at_once


def test_so_many_answers_are_judged_at_a_time_as_memory_holds() -> None:
    seven_billion = SimpleNamespace(num_hidden_layers=28, num_key_value_heads=4, hidden_size=3584, num_attention_heads=28)
    assert at_once(seven_billion, 4096 + 512) == 7
    assert at_once(seven_billion, 10**7) == 1
    assert at_once(SimpleNamespace(num_hidden_layers=2, num_key_value_heads=1, head_dim=16, hidden_size=32), 1024) > 600
