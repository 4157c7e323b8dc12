import pytest

from infra.errors import BadSetting, CannotContinue, RetouchError, RetryLater
from infra.settings import Trainer
from trainer.service import pause_s


@pytest.mark.parametrize(("error", "pause"), [(RetryLater("away"), 2.0), (CannotContinue("diverged"), 90.0), (BadSetting("no GPU"), 90.0)])
def test_what_is_briefly_away_is_looked_for_soon_and_what_failed_waits_for_the_schedule(error: RetouchError, pause: float) -> None:
    assert pause_s(error, Trainer(poll_s=2.0, every_s=90.0)) == pause
