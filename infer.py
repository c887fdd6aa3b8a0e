"""Forecast rain: the last radar images in, an ensemble of the next ones out.

  python infer.py                                        bundled model, synthetic rain
  python infer.py --plot forecast.gif                    and a picture (needs matplotlib)
  python infer.py --plot forecast.html                   and a page to explore in a browser
  python infer.py --model runs/ldcast --data event.npz   a trained model, real rain
  python infer.py --model runs/ldcast --calibrated       corrected by the model's calibration
  python infer.py --data event.nc --out forecast.nc --probabilities 0.1 1 5 10
  python infer.py --data event.nc --accumulate 30 60     and what falls in 30 and in 60 minutes
  python infer.py --data event.nc --accumulate 60 --areas catchments.geojson     and where
  python infer.py --watch incoming --out forecasts       a forecast for each new radar image
  torchrun --nproc_per_node=4 infer.py --members 64      members shared among four GPUs

Writes forecast.npz (see --out) and prints where it will rain, and how much. How many images, and
how far apart, is the model's: of the bundled one 4 in and 20 out, each 5 minutes.
"""

import argparse
import sys
from datetime import timedelta

from tqdm import tqdm

from ldcast.data.event import notes_of
from ldcast.data.fields import notes_of_unused
from ldcast.diffusion import warn_of_few_steps
from ldcast.errors import run_script
from ldcast.forecasting.arguments import check_flags, check_processes, parse_flags
from ldcast.forecasting.event import forecast_event, forecast_fields, num_frames_of
from ldcast.forecasting.flags import (
    areas_of,
    borders_of,
    draw,
    load_model,
    on_areas,
    request_of,
    write_all,
)
from ldcast.forecasting.reading import radar_of
from ldcast.forecasting.service import watch
from ldcast.machine.device import choose_device
from ldcast.machine.heap import keep_freed_memory
from ldcast.machine.processes import Processes, join_processes, process_device
from ldcast.products.areas import notes_of_areas
from ldcast.products.summary import summarise

PATIENCE = timedelta(hours=6)  # of a process for the members of another


def forecast_once(flags: argparse.Namespace, processes: Processes) -> None:
    """From --data to --out, a summary, and --plot."""
    with processes.failing_together():
        past, later = radar_of(flags)
        borders_of(flags, past)  # bad ones are found now
        areas = areas_of(flags)
        model, calibration = load_model(flags, processes.device)
        request = on_areas(request_of(flags, calibration), areas, past)
        forecast_fields(model, past, num_frames_of(model, request))  # missing ones are found now
        notes = model.precision_notes(flags.amp)
    for note in notes if processes.is_main else []:
        log(f"note: {note}")
    with tqdm(desc="forecast", unit="call", disable=None if processes.is_main else True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        forecast = forecast_event(model, past, request, processes, show)
    if forecast is None:
        return
    written = write_all(flags, forecast, flags.out)
    notes = [*notes_of([past]), *notes_of_unused([past], model.fields)]
    for note in [*notes, *(notes_of_areas(request.areas) if request.areas else [])]:
        print(f"note: {note}")
    for warning in warn_of_few_steps(forecast.sampler, forecast.num_sampling_steps):
        print(warning)
    view = (past.rain_rate, forecast.rain_rate, forecast.issue_time, forecast.lead_minutes)
    chances, amounts = forecast.calibrated_chances, forecast.amounts
    print(summarise(*view, past.grid, chances, amounts=amounts))
    if calibration and calibration.warning:
        print(f"Calibration: {calibration.warning}")
    print(f"wrote {' and '.join(map(str, written))}")
    if flags.plot:
        draw(flags, past, forecast, later)
        print(f"wrote {flags.plot}")


def log(line: str) -> None:
    """Prints a line, whatever is in it: a file may have a name that the terminal cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def main(argv: list[str] | None = None) -> None:
    flags = parse_flags(__doc__, argv)
    check_flags(flags)
    device = process_device(choose_device(flags.device))
    with join_processes(device, PATIENCE) as processes:
        check_processes(flags, processes)
        if flags.watch:
            watch(flags, processes, log)
        else:
            forecast_once(flags, processes)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(run_script(main))
