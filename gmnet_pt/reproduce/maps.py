"""Feature maps of a finished run: the figure that fits its net, of the first test images."""

from __future__ import annotations

from converters.errors import CaffeError
from converters.net.choice import NetChoice
from converters.records.images import write_png
from converters.reporting import Reporter
from gmnet_pt.feature_maps import FIGURES, ImageMaps, draw_maps, figure_fits, maps_of_data
from gmnet_pt.net_command import open_net
from gmnet_pt.reproduce.results import MapNumbers
from gmnet_pt.reproduce.runs import RunFolder

IMAGES = 3


def draw_figures(folder: RunFolder, device: str, reporter: Reporter) -> list[MapNumbers]:
    """Draw `figureN.png` into the run's folder, and return the numbers of its rows.

    Pictures that cannot be drawn are told, and missing: the run's scores do not depend on them.
    """
    _, state = folder.snapshots()[-1]
    choice = NetChoice(str(folder.net), weights=(str(state.with_suffix(".caffemodel")),))
    try:
        opened = open_net(choice, device, lambda event: None)
        found: list[MapNumbers] = []
        for figure in FIGURES:
            if figure_fits(opened.net, figure):
                images = maps_of_data(opened, figure, IMAGES)
                write_png(folder.path / f"figure{figure}.png", draw_maps(images))
                found += _numbers(figure, images)
    except CaffeError as error:
        reporter.note(f"{folder.run}: no feature maps: {error}")
        return []
    return found


def _numbers(figure: int, images: list[ImageMaps]) -> list[MapNumbers]:
    return [
        MapNumbers(figure, image.name, row.about, row.blob, round(row.zeros, 6), row.mean)
        for image in images
        for row in image.rows
    ]
