"""The kinds of panels: one function for each, from a title, a description, a unit and queries."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, heatmap, piechart, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef
from grafana_foundation_sdk.models.piechart import PieChartType
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression, and the legend of its series."""

    expression: str
    legend: str = ""


def dashboard(uid: str, title: str, description: str) -> Dashboard:
    """An empty dashboard with a variable for the data source."""
    empty = Dashboard(title).uid(uid).description(description).tags(["lungline"]).refresh("15s").time("now-1h", "now")
    return empty.with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))


def row(title: str) -> Row:
    """A row with a heading."""
    return Row(title)


def lines(title: str, text: str, unit: str, *queries: Query, span: int = 8) -> timeseries.Panel:
    """Lines over time."""
    panel = timeseries.Panel().title(title).description(text).unit(unit).datasource(SOURCE).span(span).height(HEIGHT)
    legend = VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    panel = panel.legend(legend.placement(LegendPlacement.BOTTOM)).min(0)
    for target in _targets(queries):
        panel = panel.with_target(target)
    return panel


def number(title: str, text: str, unit: str, query: Query, span: int = 4) -> stat.Panel:
    """The latest value as a number."""
    panel = stat.Panel().title(title).description(text).unit(unit).datasource(SOURCE).span(span).height(4)
    panel = panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.with_target(*_targets([query]))


def shares(title: str, text: str, query: Query, span: int = 8) -> piechart.Panel:
    """The latest values as shares of a whole."""
    panel = piechart.Panel().title(title).description(text).datasource(SOURCE).span(span).height(HEIGHT)
    panel = panel.pie_type(PieChartType.DONUT).reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.with_target(*_targets([query]))


def bars(title: str, text: str, unit: str, query: Query, span: int = 8) -> bargauge.Panel:
    """The latest values as bars."""
    panel = bargauge.Panel().title(title).description(text).unit(unit).datasource(SOURCE).span(span).height(HEIGHT)
    panel = panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"])).min(0)
    return panel.with_target(*_targets([query]))


def distribution(title: str, text: str, query: Query, span: int = 8) -> heatmap.Panel:
    """A histogram over time, as a heatmap."""
    panel = heatmap.Panel().title(title).description(text).datasource(SOURCE).span(span).height(HEIGHT)
    (target,) = _targets([query])
    return panel.with_target(target.format(PromQueryFormat.HEATMAP))


def _targets(queries: Sequence[Query]) -> list[Dataquery]:
    names = "ABCDEFGH"
    return [
        Dataquery().expr(query.expression).legend_format(query.legend).ref_id(name)
        for name, query in zip(names, queries, strict=False)
    ]
