import logging
import shutil

import pytest
from events import tiny_spec


@pytest.mark.slow
def test_export_that_is_lost_before_its_upload_is_made_again_from_the_newest_checkpoint(
    steps, caplog
):
    spec = tiny_spec("training.checkpoint_steps=1")
    steps.train(spec)
    shutil.rmtree(steps.model_dir.parent)
    with caplog.at_level(logging.INFO, "trainer_module.training"):
        steps.train(spec)
    (message,) = [line for line in caplog.messages if line.startswith("going on after")]
    assert int(message.split()[3]) > 0
    assert (steps.model_dir / "saved_model.pb").is_file()
