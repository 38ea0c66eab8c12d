"""Steps of one layout, measured in processes of their own: started, waited for, ended together."""

import os
import sys
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

from lightning.fabric.plugins.environments.lightning import find_free_network_port

from metronome.app.measure import server
from metronome.app.measure.process import Request, work


class Crashed(RuntimeError):
    """A process that measured broke down."""


def measure_apart(request: Request, processes: int = 1) -> dict[str, Any]:
    """What the first of the processes tells: the numbers, or why there are none; `killed` where one of them was.

    Raises:
        Crashed: for an error in the code, with its traceback.
    """
    context, environment = server.context(), dict(request.environment)
    if processes > 1:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
    answers, started = [], []
    try:
        for rank in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            own = environment | ({"LOCAL_RANK": str(rank)} if processes > 1 else {})
            asked = (replace(request, environment=own), os.getcwd(), sys.path, theirs)
            process = context.Process(target=work, args=asked, daemon=True)
            process.start()
            theirs.close()  # so that its end is seen when it dies
            answers.append(ours)
            started.append(process)
        found = _first_answer(answers)
    finally:
        for process in started:
            process.kill()
            process.join()
        for answer in answers:
            answer.close()
    if "traceback" in found:
        raise Crashed(found["traceback"])
    return found


def _first_answer(answers: list[Any]) -> dict[str, Any]:
    """The first process's, or that of one that cannot go on; each of them waits for the others in every step."""
    waiting = list(answers)
    while True:
        for ready in wait(waiting):
            try:
                found = ready.recv()  # pyright: ignore
            except EOFError:
                return {"killed": True}
            if ready is answers[0] or "times" not in found:
                return found
            waiting.remove(ready)  # pyright: ignore
