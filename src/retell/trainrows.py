"""Training rows in a few arrays: four bytes a token where tuples would take forty."""

from array import array
from collections.abc import Iterable, Iterator, Mapping

from retell.errors import RequestError
from retell.records import Rung, TrainRow


class TrainRows(Mapping[str, TrainRow]):
    """Rows by their ids, in the order in which they came.

    Raises:
        RequestError: two have the same id.
    """

    def __init__(self, rows: Iterable[TrainRow]) -> None:
        self._place: dict[str, int] = {}
        self._rungs: list[Rung] = []
        self._ids, self._starts, self._prompts = array("i"), array("q", [0]), array("i")
        self._behaviour, self._has = array("f"), array("q")
        for row in rows:
            self._add(row)

    def __getitem__(self, id: str) -> TrainRow:
        place = self._place[id]
        start, end = self._starts[place], self._starts[place + 1]
        middle = start + self._prompts[place]
        first = self._has[place]
        behaviour = tuple(self._behaviour[first : first + end - middle]) if first >= 0 else None
        return TrainRow(id, self._rungs[place], tuple(self._ids[start:middle]), tuple(self._ids[middle:end]), behaviour)

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)

    def _add(self, row: TrainRow) -> None:
        if row.id in self._place:
            raise RequestError(f"two rows to train on have the id {row.id}: give them ids of their own")
        self._place[row.id] = len(self._place)
        self._rungs.append(row.rung)
        self._ids.extend(row.prompt)
        self._ids.extend(row.response)
        self._prompts.append(len(row.prompt))
        self._starts.append(len(self._ids))
        self._has.append(-1 if row.behaviour is None else len(self._behaviour))
        self._behaviour.extend(row.behaviour or ())
