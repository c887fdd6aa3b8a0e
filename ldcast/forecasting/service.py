"""The service of infer.py --watch: a forecast for each new radar image, until it is stopped."""

import argparse
import contextlib
import shutil
import time
from collections.abc import Callable

import numpy as np

from ldcast.data.checks import format_time
from ldcast.data.readers.reading_flags import reader_with, reading_of
from ldcast.data.readers.services import READERS
from ldcast.data.readers.specs import read_event
from ldcast.diffusion import warn_of_few_steps
from ldcast.errors import InputError
from ldcast.forecasting.event import forecast_event
from ldcast.forecasting.feed import (
    FrameFeed,
    clear_leftovers,
    forecast_path,
    next_time,
    surplus_forecasts,
)
from ldcast.forecasting.flags import (
    areas_of,
    draw,
    load_model,
    on_areas,
    request_of,
    write_all,
)
from ldcast.machine.folders import lock_folder
from ldcast.machine.processes import Processes
from ldcast.machine.stopping import Stopped, StopRequest
from ldcast.products.area_table import table_path
from ldcast.products.areas import notes_of_areas
from ldcast.products.forecast import check_grid
from ldcast.products.summary import describe_gaps

POLL_SECONDS = 2


def watch(flags: argparse.Namespace, processes: Processes, log: Callable[[str], None]) -> None:
    """A forecast for each issue time whose frames come in to --watch, until SIGTERM or Ctrl-C.

    log: takes one line for the user.
    """
    with lock_folder(flags.out), StopRequest() as stop, contextlib.suppress(Stopped):
        clear_leftovers(flags.out)
        model, calibration = load_model(flags, processes.device)
        request, areas = request_of(flags, calibration), areas_of(flags)
        for note in model.precision_notes(flags.amp):
            log(f"note: {note}")
        how = reading_of(flags, flags.frames.minutes_per_frame)
        read = reader_with(READERS.get(flags.reader, read_event), how)
        feed = FrameFeed(flags.watch, read, flags.frames, flags.keep, log, model.fields)
        log(f"watching {flags.watch}, forecasts go to {flags.out}")
        diffusion = model.config.diffusion
        for line in warn_of_few_steps(diffusion.sampler, diffusion.num_sampling_steps):
            log(line)
        newest = np.datetime64(0, "s")  # that a picture was drawn of
        said: set[str] = set()  # notes
        while True:
            stop.interrupting()
            more_files_wait = feed.look()
            issue_time = next_time(feed.due(), flags.out, flags.suffix, flags.keep)
            if issue_time is None:
                time.sleep(0 if more_files_wait else POLL_SECONDS)
                continue
            start = time.perf_counter()
            try:
                past = feed.event(issue_time)
                check_grid(past.grid)
                asked = on_areas(request, areas, past)
                notes = [*past.notes, *(notes_of_areas(asked.areas) if asked.areas else [])]
                for note in [note for note in notes if note not in said]:
                    said.add(note)
                    log(f"note: {note}")
                forecast = forecast_event(model, past, asked, processes, stop.interrupting)
            except InputError as error:  # what it would be made of, not where it would be written
                feed.drop(issue_time)
                log(f"no forecast from {format_time(issue_time)}: {error}")
                continue
            path = forecast_path(flags.out, issue_time, flags.suffix)
            write_all(flags, forecast, path)
            for surplus in surplus_forecasts(flags.out, flags.suffix, flags.keep):
                shutil.rmtree(surplus) if surplus.is_dir() else surplus.unlink()
                table_path(surplus).unlink(missing_ok=True)
            seconds = time.perf_counter() - start
            log(f"{format_time(issue_time)}: {flags.members} members in {seconds:.0f} s, {path}")
            for line in describe_gaps(past.rain_rate, flags.frames.minutes_per_frame):
                log(line)
            if flags.plot and issue_time > newest:
                newest = issue_time
                try:
                    draw(flags, past, forecast)
                except (InputError, OSError) as error:
                    log(f"no picture of {format_time(issue_time)}: {error}")
    log(f"stopped by {stop.name}")
