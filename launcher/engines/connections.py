"""All hosts of a launch over ssh, from the first connection to the last end.

Two steps: on all hosts a supervisor is made ready, then all begin; so one that cannot be reached
costs nobody anything. What a host says of the run is its supervisor's word; that a host is lost,
and that nobody ends for it, is found here. Use as a context manager: leaving it ends what runs
anywhere.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from launcher.engines.connection import Connection
from launcher.engines.obstacles import (
    Obstacle,
    explain_end,
    explain_loss,
    explain_problem,
    explain_silence,
)
from launcher.engines.obstacles import make_error as make_reach_error
from launcher.engines.ssh_plan import (
    SSH_VARIABLE,
    SshPlan,
    make_command,
    make_question,
    select_login,
)
from launcher.events import Event, Signalled
from launcher.exits import signal_name
from launcher.output.console import TERMINAL_VARIABLE, Console
from launcher.output.input import Input
from launcher.output.intake import Intake
from launcher.system.loop import Loop

# They do not stop: they go to every rank.
FORWARDED_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)

# How often each side tells the other that it is there.
_BEAT_S = 1.0

# After the first host that cannot be reached: others may fail at the same moment.
_GATHER_S = 0.5

# When to say who is still waited for.
_PATIENCE_S = 5.0

# After a supervisor has failed, how long the others may take to hear of it from each other.
_HEARSAY_S = 3.0

# The first host hears so much sooner of a signal: it says that for all, and tells the others.
_FIRST_S = 0.1

# How long ssh may take to end when nothing is left for it to do, and after each signal.
_END_S = 1.0

# The exit code where no supervisor has said how the run has ended, as of a RendezvousError.
_LOST = 3

# So many signals: nobody waits any longer.
_MANY_STOPS = 3


class Connections:
    """The connections to all hosts."""

    def __init__(
        self, plan: SshPlan, environ: Mapping[str, str], loop: Loop, console: Console
    ) -> None:
        self._plan = plan
        self._environ = environ
        self._loop = loop
        self._console = console
        self._intake = Intake(loop)
        self._all = [
            Connection(index, each.host.name, plan.mark, loop, self._intake)
            for index, each in enumerate(plan.hosts)
        ]
        # Of hosts that cannot take part.
        self._obstacles: dict[int, Obstacle] = {}
        # The one whose ssh may ask the user now, and those that have been allowed to.
        self._asking: Connection | None = None
        self._have_asked: set[int] = set()
        self._is_time_up = False
        self._has_begun = False
        self._input: Input | None = None
        # In the order in which they ended, of those that had been started.
        self._ended: list[Connection] = []
        # The first signal that asks to stop, and how many have come.
        self.signum: int | None = None
        self._num_stops = 0

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._input is not None:
            self._input.close()
        for connection in self._all:
            connection.hang_up()
            if connection.answer is None:
                connection.kill(signal.SIGTERM)  # it may wait for a network, or for a user
        for signum in (signal.SIGTERM, signal.SIGKILL):
            self._wait_for_ends()
            for connection in self._open():
                connection.kill(signum)
        self._wait_for_ends()
        for timer in (self._beat, self._tell_others, self._stop_the_rest):
            self._loop.cancel_timer(timer)
        self._intake.close()

    def _wait_for_ends(self) -> None:
        ends_at = self._loop.clock() + _END_S
        while self._open() and self._loop.clock() < ends_at:
            self._loop.set_timer(_nothing, max(0.0, ends_at - self._loop.clock()))
            self._turn()
        self._loop.cancel_timer(_nothing)

    def _open(self) -> list[Connection]:
        return [each for each in self._all if each.pid and not each.is_over]

    def _running(self) -> list[Connection]:
        return [each for each in self._open() if each.has_begun]

    # --- reaching them --------------------------------------------------------------------------

    def reach(self) -> dict[int, dict[str, object]]:
        """Connect to all hosts; return what each has told of itself, by its place in the list.

        At once when a signal asks to stop. RendezvousError names those that cannot take part.
        """
        for connection in self._all:
            self._connect(connection, may_ask=False)
        self._loop.set_timer(self._beat, _BEAT_S)
        self._loop.set_timer(self._name_missing, _PATIENCE_S)
        self._loop.set_timer(self._give_up_missing, self._plan.join_timeout_s)
        try:
            while self.signum is None and not self._is_time_up and self._may_change():
                self._turn()
                self._look_for_losses()
                for connection in self._missing():
                    self._look_for_obstacle(connection)
                self._let_one_ask()
        finally:
            for timer in (self._name_missing, self._give_up_missing, self._end_reaching):
                self._loop.cancel_timer(timer)
        if self.signum is None and self._obstacles:
            self._go_on_without()
        return {each.index: each.answer for each in self._all if each.answer is not None}

    def _may_change(self) -> bool:
        """Tell whether it is worth while to wait.

        An ssh that has asked in vain may have got the Ctrl-C that is on its way to us, too.
        """
        has_declined = not self._plan.is_elastic and self._have_asked & self._obstacles.keys()
        return bool(self._missing() or has_declined)

    def _missing(self) -> list[Connection]:
        """Return those that have neither answered nor failed."""
        return [
            each for each in self._all if each.answer is None and each.index not in self._obstacles
        ]

    def _connect(self, connection: Connection, *, may_ask: bool) -> None:
        command = make_command(self._plan, connection.index, may_ask=may_ask)
        is_here = self._plan.hosts[connection.index].is_here
        environ = select_login(self._environ) if is_here else self._environ
        try:
            connection.open(command, environ, self._console, may_ask=may_ask)
        except OSError as error:
            why = f"cannot be reached: {command[0]}: {error.strerror}"
            self._exclude(connection, Obstacle(why, f"{SSH_VARIABLE} can name another ssh."))
            return
        terminal = self._console.describe_terminal(is_typed=self._plan.is_typed)
        variables = {TERMINAL_VARIABLE: terminal}
        connection.ask(make_question(self._plan, connection.index, variables))

    def _look_for_losses(self) -> None:
        """See whether a host has gone that had answered, while others are still being reached."""
        for connection in self._all:
            if connection.is_over and connection.answer is not None:
                connection.answer = None
                status, words = connection.exit_status or 0, connection.last_words
                loss = explain_loss(self._plan, connection.index, status, words)
                self._exclude(connection, loss)

    def _look_for_obstacle(self, connection: Connection) -> None:
        """See whether a host that has not answered will never do so."""
        if connection.problem is not None:
            self._exclude(connection, explain_problem(self._plan, *connection.problem))
        elif connection.exit_status is not None and connection.is_over:
            may_ask_yet = connection.could_ask and connection.index not in self._have_asked
            if not (may_ask_yet and _has_terminal()):
                status, words = connection.exit_status, connection.last_words
                self._exclude(connection, explain_end(self._plan, connection.index, status, words))

    def _let_one_ask(self) -> None:
        """Let ssh ask the user for what it needs, for one host at a time."""
        is_in_vain = bool(self._obstacles) and not self._plan.is_elastic
        if is_in_vain or self._asking in self._missing():
            return
        self._asking = next((each for each in self._missing() if each.is_over), None)
        if self._asking is not None:
            self._have_asked.add(self._asking.index)
            self._connect(self._asking, may_ask=True)

    def _exclude(self, connection: Connection, obstacle: Obstacle) -> None:
        self._obstacles[connection.index] = obstacle
        connection.hang_up()
        if not self._plan.is_elastic:
            self._loop.set_timer(self._end_reaching, _GATHER_S)

    def _end_reaching(self) -> None:
        self._is_time_up = True

    def _give_up_missing(self) -> None:
        for connection in self._missing():
            silence = explain_silence(self._plan.join_timeout_s, connection.last_words)
            self._exclude(connection, silence)
        self._is_time_up = True

    def _name_missing(self) -> None:
        if self._asking is None:
            self._console.say(f"waiting for {', '.join(each.name for each in self._missing())}")

    def _go_on_without(self) -> None:
        """Say who is missing; RendezvousError where there are too few without them."""
        num_reached = sum(each.answer is not None for each in self._all)
        if not self._plan.is_elastic or num_reached < self._plan.min_nodes:
            raise make_reach_error({each.index: each.name for each in self._all}, self._obstacles)
        for index, obstacle in self._obstacles.items():
            self._console.say(f"{self._all[index].name} {obstacle.why}; going on without it")

    # --- while they run -------------------------------------------------------------------------

    def start(self, endpoint: str) -> None:
        """Let the supervisor of each host begin that has answered."""
        self._has_begun = True
        reached = [each for each in self._all if each.answer is not None]
        for connection in reached:
            connection.go(endpoint, is_host=connection is reached[0])
            if self._plan.hosts[connection.index].has_reader:
                self._input = Input(self._loop, connection)

    def wait(self) -> None:
        """Wait until all have ended, or have to be given up."""
        while self._open():
            self._turn()

    def exit_code(self) -> int:
        """Return the exit code of the run.

        It is that of any supervisor that was not killed; but one that never took part can have
        failed first, and where a run goes on without one, only the last know how it has ended.
        """
        if not self._has_begun:
            return 128 + (self.signum or 0)
        codes = [
            each.returncode
            for each in self._ended
            if each.returncode is not None and each.returncode >= 0
        ]
        if not codes:
            return _LOST if self.signum is None else 128 + self.signum
        return codes[-1] if self._plan.is_elastic else codes[0]

    # --- what happens ---------------------------------------------------------------------------

    def _turn(self) -> None:
        self._loop.turn(self._handle)
        self._intake.resume_if_possible()
        for connection in self._all:
            if connection.look() and connection.has_begun:
                self._note_end(connection)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Signalled):
            self._on_signal(event.signum)

    def _on_signal(self, signum: int) -> None:
        if signum in FORWARDED_SIGNALS:
            for connection in self._running():
                connection.signal(signum)
        elif signum == signal.SIGTSTP:
            self._console.say("a run on several hosts cannot be paused; Ctrl-C stops it")
        else:
            self._on_stop(signum)

    def _on_stop(self, signum: int) -> None:
        """Pass a signal on, which asks to stop the first time, and forces the second."""
        self._num_stops += 1
        if self.signum is None:
            self.signum = signum
            if not self._has_begun:
                self._console.say(f"received {signal_name(signum)}; nothing was started")
        is_first = self._num_stops == 1
        for connection in self._running()[: 1 if is_first else None]:
            connection.stop(signum)
        if is_first:
            self._loop.set_timer(self._stop_the_rest, _FIRST_S)
        else:
            self._loop.cancel_timer(self._stop_the_rest)
        if self._num_stops >= _MANY_STOPS:
            for connection in self._open():
                connection.hang_up()
                connection.give_up()

    def _stop_the_rest(self) -> None:
        for connection in self._running()[1:]:
            connection.stop(self.signum or signal.SIGTERM)

    def _note_end(self, connection: Connection) -> None:
        self._ended.append(connection)
        if self._input is not None and self._plan.hosts[connection.index].has_reader:
            self._input.close()
        if connection.returncode is None:
            self._console.say(f"the connection to {connection.name} is lost")
        if connection.returncode != 0 and not self._plan.is_elastic and self._running():
            self._loop.set_timer(self._tell_others, _HEARSAY_S)

    def _tell_others(self) -> None:
        """Ask those to stop who have not heard that a host has failed: it never took part."""
        if self.signum is None:
            for connection in self._running():
                connection.stop(signal.SIGTERM)

    def _beat(self) -> None:
        """Tell all hosts that we are there; give up those that are silent."""
        self._loop.set_timer(self._beat, _BEAT_S)
        for connection in self._open():
            connection.beat()
        has_verdict = bool(self._ended) and not self._plan.is_elastic
        limit_s = self._plan.node_timeout_s if has_verdict else self._plan.silence_s
        for connection in self._running():
            if connection.silent_s() > limit_s:
                self._console.say(f"{connection.name} has been silent for {limit_s:g} s")
                connection.give_up()


def _has_terminal() -> bool:
    """Tell whether somebody can be asked: this process is in the foreground of a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _nothing() -> None:
    pass
