"""The folder of a training run: what was asked, what was measured, and how it is resumed."""

import contextlib
import importlib.util
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ldcast.errors import InputError
from ldcast.frames import CropFrames, FrameConfig
from ldcast.machine.files import write_text
from ldcast.machine.folders import check_writable, clear_unfinished, lock_folder
from ldcast.machine.processes import Processes
from ldcast.models import AutoencoderConfig
from ldcast.nowcast.model_folder import CONFIG_NAME, WEIGHTS_NAME
from ldcast.rain import RainScale
from ldcast.training.checkpoint import (
    DAMAGED_NAME,
    PREVIOUS_NAME,
    STATE_NAME,
    TrainState,
    check_state,
    load_state,
    num_state_bytes,
    rollback_target,
    save_state,
    write_state,
)
from ldcast.training.guard import describe, find_validation_problem
from ldcast.training.metrics import METRICS_NAME, MetricsLog, metrics_lines
from ldcast.training.pictures import Comparison, draw_comparisons

ARGUMENTS_NAME = "state.json"
PICTURES_NAME = "pictures"
LR_CUT = 0.5  # what a rollback multiplies the learning rate by
# What may differ when a run is resumed: it changes results by rounding at most, but for inputs.
INPUTS_CODE = "inputs_code"  # if it differs a line says so: most edits change no value
FREE_ARGUMENTS = (
    INPUTS_CODE,
    "data_settings.num_workers",
    "loop.num_micro_batches",
    "loop.use_activation_checkpointing",
)
# Came after runs had been started: what those mean that lack it.
FORMER_VALUES = {
    "autoencoder.kind": AutoencoderConfig.kind,
    "autoencoder.decoder": "residual",
    "autoencoder.lapped": False,
    "autoencoder.rain_weight": AutoencoderConfig.rain_weight,
    "frames.num_frames": CropFrames.num_frames,
    "frames.past_frames": FrameConfig.past_frames,
    "frames.future_frames": FrameConfig.future_frames,
    "frames.minutes_per_frame": FrameConfig.minutes_per_frame,
    "rain.transform": "log",
    "rain.exponent": RainScale.exponent,
    "inputs": [],
    "pool": 0,
    "loss": "denoising",
    "crps.latent_weight": 0.0,
    "noise_levels": [],
    "denoiser.use_linear_path": False,
    "denoiser.linear_path_scales": [],
    "diffusion.sampler_settings.eta": 0.0,
    "diffusion.sampler_settings.fresh_noise_scale": 1.0,
    "diffusion.sampler_settings.noise_scale": 1.0,
    "diffusion.channel_sizes": "unit",
    "diffusion.around_linear_forecast": False,
    "diffusion.member_noise": "white",
    "optimizer.lr_curve": "inverse_sqrt",
    "forecast_score.num_sampling_steps": 0,
    "data_settings.crop_motion": 0,
    "data_settings.rain_factor_db": 0.0,
    "data_settings.judged_by": "all",
}
# Was not recorded at first: any value goes where a run lacks it.
UNRECORDED = ("crps.", "diffusion.sampler_settings.spacing", "data_settings.", "held_out_frames")
PHASES = "phase_ends"


class Run:
    """A run's folder, opened by `open_run`; of several processes, rank 0 alone writes into it.

    say: takes a line for the user.
    phase_ends: iterations at which the run was planned to end, by the commands that started and
        extended it; the curve of the learning rate depends on them.
    """

    def __init__(
        self,
        folder: Path,
        arguments: dict[str, Any],
        processes: Processes,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.processes = folder, processes
        self.phase_ends = _phase_ends(folder, arguments["loop"]["iterations"])
        self._arguments, self._say = arguments, say
        self._can_draw = importlib.util.find_spec("matplotlib") is not None

    def say(self, line: str) -> None:
        """Shows the user a line, once for all processes; the output may be closed already."""
        if self.processes.is_main:
            with contextlib.suppress(BrokenPipeError):
                self._say(line)

    def resume(self, state: TrainState, use_tensorboard: bool = False) -> None:
        """Fills `state` from the newest checkpoint; a new run has none and keeps it unchanged.

        use_tensorboard: writes the metrics for TensorBoard as well.
        A damaged checkpoint is put aside and the one before it taken, with a line that says so.
        Raises InputError where none can be read.
        """
        with self.processes.failing_together():
            if self.processes.is_main:
                _put_damaged_aside(self.folder, self.say)
        path = _newest_state(self.folder)
        if path is not None:
            with self.processes.failing_together():
                load_state(state, path)
        self._check_all_resumed(state)
        if path is not None:
            self._report_processes(state)
            self._report_inputs()
        state.num_processes = self.processes.num
        with self.processes.failing_together():
            if self.processes.is_main:
                recorded = self._arguments | {PHASES: self.phase_ends}
                arguments = json.dumps(recorded, indent=2)
                write_text(self.folder / ARGUMENTS_NAME, arguments + "\n")
                self.metrics = MetricsLog(self.folder, use_tensorboard)
                self.metrics.cut(state.iteration, state.validated_at)
        if not self._can_draw:
            self.say("no pictures of validations; for them: pip install matplotlib")

    def _report_inputs(self) -> None:
        now = self._arguments.get(INPUTS_CODE)
        if now is not None and read_arguments(self.folder).get(INPUTS_CODE) != now:
            self.say(
                "note: the code that makes inputs (ldcast/inputs, ldcast/motion) is another than "
                "when the run was last started; if it makes other values, networks and linear "
                "forecast go on from those of then: resume with the code of that time, or start "
                "over with another --out"
            )

    def rehearse_save(self, state: TrainState) -> None:
        """Writes a checkpoint as a trial, so that what would fail in hours fails now.

        Raises InputError where the disk has no room for three checkpoints of the full size: two
        that are kept, and one that is being written. OSError where it cannot be written.
        """
        with self.processes.failing_together():
            if self.processes.is_main:
                self._check_room(state)
                path = self.folder / f".{STATE_NAME}.rehearsal.tmp"
                try:
                    write_state(state, path)
                    check_state(path)
                finally:
                    path.unlink(missing_ok=True)

    def _check_room(self, state: TrainState) -> None:
        states = [self.folder / name for name in (STATE_NAME, PREVIOUS_NAME)]
        kept = sum(path.stat().st_size for path in states if path.is_file())
        needed = 3 * num_state_bytes(state)
        free = kept + shutil.disk_usage(self.folder).free
        if free < needed:
            raise InputError(
                f"{self.folder} has room for {free / 1e9:.1f} GB, expected {needed / 1e9:.1f} GB "
                "for three checkpoints: free some, or choose another --out"
            )

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint; see `save_state`."""
        if self.processes.is_main:
            save_state(state, self.folder)

    def log(self, state: TrainState, kind: str, **values: float) -> None:
        """A line of `metrics.jsonl`, of kind "training" or "validation"."""
        if self.processes.is_main:
            self.metrics.write(kind, state.iteration, **values)

    def take_validation(
        self, state: TrainState, scores: dict[str, float], max_loss_ratio: float
    ) -> bool:
        """Logs a validation and records it in `state`; False where it rolled the run back.

        scores: none of a run without validation. max_loss_ratio: see `find_validation_problem`.
        """
        if scores:
            self.log(state, "validation", **scores)
        problem = find_validation_problem(scores, state.validation_loss, max_loss_ratio)
        if problem is not None:
            self.roll_back(state, problem)
            return False
        state.validated_at = state.iteration
        state.validation_loss = scores.get("val_loss", math.inf)
        return True

    def roll_back(self, state: TrainState, problem: str) -> None:
        """Returns to the last validated checkpoint, with other draws and a lower learning rate.

        problem: what was seen, in words.
        Raises InputError where the run was rolled back before, or nothing was validated yet.
        """
        seen = f"{problem} at iteration {state.iteration}"
        if state.skipped:
            seen += f" (in all {describe(state.skipped)})"
        if state.validated_at < 0:
            raise InputError(f"{seen}, before any training: start from other weights or data")
        if state.rollback:
            raise InputError(
                f"{seen}; before, the run was {state.rollback}. Look at {METRICS_NAME} and at the "
                f"data, then start again from the best averaged weights with --init {self.folder}, "
                "another --out and perhaps a lower --lr"
            )
        skipped, scaler = state.skipped, state.scaler.state_dict()
        load_state(state, rollback_target(self.folder))
        self.processes.wait()  # all have read before rank 0 writes
        state.attempt += 1
        state.lr_factor *= LR_CUT
        state.skipped = skipped
        if scaler:  # fp16: the scale that overflows had lowered stays low
            scale = min(scaler["scale"], state.scaler.get_scale())
            state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": scale})
        state.num_bad_in_a_row = 0
        state.num_processes = self.processes.num
        state.rollback = (
            f"rolled back to iteration {state.iteration} with {state.lr_factor:g} times the "
            f"learning rate and other draws, for {seen}"
        )
        self.say(state.rollback)
        self.save(state)
        if self.processes.is_main:
            self.metrics.cut(state.iteration, state.validated_at)

    def draw(
        self, state: TrainState, comparisons: list[Comparison], column_titles: Sequence[str]
    ) -> None:
        """The picture of a validation, `pictures/<iteration>.png`; none without matplotlib.

        One that cannot be written is reported, and does not end the run.
        """
        if self.processes.is_main and comparisons and self._can_draw:
            path = self.folder / PICTURES_NAME / f"{state.iteration:08d}.png"
            title = f"{self.folder.name}: validation at iteration {state.iteration}"
            try:
                path.parent.mkdir(exist_ok=True)
                draw_comparisons(comparisons, column_titles, title, path)
            except OSError as error:
                self.say(f"no picture: {error}")

    def _check_all_resumed(self, state: TrainState) -> None:
        """Raises InputError where the processes read different states, as without a shared disk."""
        iterations = self.processes.gather({self.processes.rank: state.iteration})
        if len(set(iterations.values())) > 1:
            raise InputError(
                f"the processes found different states in {self.folder} (of iterations "
                f"{', '.join(map(str, iterations.values()))}): give an --out that all machines see"
            )

    def _report_processes(self, state: TrainState) -> None:
        before, now = state.num_processes, self.processes.num
        if before != now:
            self.say(
                f"trained by {before} {'process' if before == 1 else 'processes'} to iteration "
                f"{state.iteration}, now by {now}: the same examples, shared differently, so that "
                "results agree to rounding only"
            )


@contextlib.contextmanager
def open_run(
    folder: Path, arguments: dict[str, Any], processes: Processes, say: Callable[[str], None]
) -> Iterator[Run]:
    """Creates or resumes the folder of a run and locks it for these processes alone.

    arguments: nested plain values, all that decides the run's results.
    What a killed run left half-written is cleared.
    Raises InputError where the folder cannot be written, is held by another run, holds a model that
    is no run, or was trained with other arguments (a larger `loop.iterations` is fine).
    """
    with contextlib.ExitStack() as stack:
        with processes.failing_together():
            if processes.is_main:
                check_writable(folder)
                stack.enter_context(lock_folder(folder))
                _check_is_run(folder, arguments)
                for path in (folder, folder / PICTURES_NAME):
                    clear_unfinished(path)
        yield Run(folder, arguments, processes, say)
        processes.wait()  # rank 0 may still be writing


def read_arguments(folder: Path) -> dict[str, Any]:
    """The arguments of a run. Raises InputError where they are missing or broken."""
    path = folder / ARGUMENTS_NAME
    try:
        arguments = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): is {folder} a training run?") from None
    if not isinstance(arguments, dict):
        raise InputError(f"{path} is broken, expected a JSON table: is {folder} a training run?")
    return arguments


def _phase_ends(folder: Path, iterations: int) -> list[int]:
    """Those that a run recorded, and `iterations` where that is later; its last one is."""
    if _newest_state(folder) is None:  # it starts from the beginning
        return [iterations]
    recorded = read_arguments(folder)
    ends = recorded.get(PHASES, [recorded["loop"]["iterations"]])
    return ends if iterations == ends[-1] else [*ends, iterations]


def _check_is_run(folder: Path, arguments: dict[str, Any]) -> None:
    if (folder / ARGUMENTS_NAME).is_file():
        if _newest_state(folder) is not None:
            _check_same(read_arguments(folder), json.loads(json.dumps(arguments)), folder)
        elif _has_trained(folder):
            raise InputError(
                f"{folder} was trained but has no {STATE_NAME} to resume from: restore it, or "
                "choose another --out"
            )
        return  # a run that ended before its first checkpoint may start over
    for name in (STATE_NAME, CONFIG_NAME, WEIGHTS_NAME):
        if (folder / name).exists():
            raise InputError(
                f"{folder} has {name} but no {ARGUMENTS_NAME}, so it is not a run to resume and "
                "would be overwritten: choose another --out"
            )


def _has_trained(folder: Path) -> bool:
    path = folder / METRICS_NAME
    return path.is_file() and any(line["iteration"] > 0 for line in metrics_lines(path))


def _newest_state(folder: Path) -> Path | None:
    """The previous state counts where a run was killed between the two renames of a save."""
    paths = (folder / STATE_NAME, folder / PREVIOUS_NAME)
    return next((path for path in paths if path.is_file()), None)


def _put_damaged_aside(folder: Path, say: Callable[[str], None]) -> None:
    """Renames the newest state if it is damaged; raises InputError if the previous one is, too."""
    path = _newest_state(folder)
    if path is None:
        return
    try:
        check_state(path)
    except InputError as error:
        previous = folder / PREVIOUS_NAME
        if path == previous or not previous.is_file():
            raise InputError(
                f"{error}, and there is no state before it: restore it, or start over with "
                "another --out"
            ) from None
        check_state(previous)
        say(f"{error}; resuming from {PREVIOUS_NAME}, the damaged file is kept as {DAMAGED_NAME}")
        os.replace(path, folder / DAMAGED_NAME)


def _check_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    before, now = dict(_leaves(before)), dict(_leaves(now))
    before.pop(PHASES, None)
    before = {name: value for name, value in FORMER_VALUES.items() if name in now} | before
    free = {name for name in now.keys() - before.keys() if name.startswith(UNRECORDED)}
    for name in sorted((before.keys() | now.keys()) - free):
        old, new = before.get(name), now.get(name)
        if name == "loop.iterations" and isinstance(old, int) and new >= old:
            continue
        if old != new and name not in FREE_ARGUMENTS:
            raise InputError(
                f"{folder} was started with {name.replace('data_settings.', 'data.')} {old}, now "
                f"it is {new}: repeat the first command (--iterations may grow) with the code of "
                "that time, whose presets may be others, or choose another --out"
            )


def _leaves(table: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for key, value in table.items():
        is_table = isinstance(value, dict)
        leaves += _leaves(value, f"{path}{key}.") if is_table else [(path + key, value)]
    return leaves
