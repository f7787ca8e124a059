"""A training that was killed goes on as if nothing had been."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np

STATE, WEIGHTS, SEEDS = "state.json", "state.weights.h5", "seeds.npz"


class Resume(keras.callbacks.Callback):
    """Writes down the state of a training between epochs, and takes it up again.

    The state is that of the weights, the optimizer with its steps, and the random draws: an interrupted epoch starts
    again from its beginning, and where operations are deterministic the final weights equal an uninterrupted run's.
    Keras's `BackupAndRestore` leaves the draws out. Place it last in the list of callbacks.

    Args:
        folder: where the state lies until `discard` is called, once the trained model is saved: a kill between
            training and saving costs the last epoch, no more. It is replaced as a whole, so a kill while it is written
            leaves the one before.

    Example:
        ```python
        resume = Resume("run/resume")
        dataset = make_dataset(records, batch_size=2, training=True, first_epoch=resume.epoch)
        resume.restore(model)  # a compiled model; does nothing at the first start
        model.fit(dataset, epochs=12, initial_epoch=resume.epoch, callbacks=[resume])
        model.save("run/model.keras")
        resume.discard()  # the next start is a new training
        ```
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    @property
    def epoch(self) -> int:
        """The epoch to begin with: 0 where no training was interrupted."""
        place = self._place()
        return 0 if place is None else json.loads((place / STATE).read_text())["epoch"]

    def restore(self, model):
        """Put the state into a compiled model.

        Raises:
            ValueError: the state is of another model.
        """
        place = self._place()
        if place is None:
            return
        model.optimizer.build(model.trainable_variables)
        model.load_weights(place / WEIGHTS)
        with np.load(place / SEEDS) as seeds:
            for variable, path in zip(seed_states(model), sorted(seeds.files, key=int)):
                variable.assign(seeds[path])

    def on_epoch_begin(self, epoch, logs=None):
        if epoch:
            self._save(epoch)

    def discard(self):
        """Delete the state, and the halves of it that a kill left."""
        for folder in (self.folder, *self._neighbours()):
            shutil.rmtree(folder, ignore_errors=True)

    def _save(self, epoch):
        written, before = self._neighbours()
        shutil.rmtree(written, ignore_errors=True)
        written.mkdir(parents=True)
        self.model.save_weights(written / WEIGHTS)
        states = seed_states(self.model)
        np.savez(written / SEEDS, **{str(i): np.asarray(v) for i, v in enumerate(states)})
        (written / STATE).write_text(json.dumps({"epoch": epoch}))
        # Two renames: whenever a kill comes, one whole state lies there.
        shutil.rmtree(before, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(before)
        written.rename(self.folder)
        shutil.rmtree(before, ignore_errors=True)

    def _neighbours(self):
        return (self.folder.with_name(self.folder.name + end) for end in (".new", ".old"))

    def _place(self):
        """The folder of the last whole state, if there is one."""
        _, before = self._neighbours()
        places = (place for place in (self.folder, before) if (place / STATE).is_file())
        return next(places, None)


def seed_states(model):
    """The states of a model's random draws, which `save_weights` leaves out."""
    return [variable for variable in model.variables if "seed_generator" in variable.path]
