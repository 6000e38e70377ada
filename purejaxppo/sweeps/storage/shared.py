"""A study in an Optuna storage, as a source of trials for one of the processes that share it."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from purejaxppo.config.schema import PPOConfig
from purejaxppo.errors import ConfigError, shown
from purejaxppo.sweeps.dimensions import Space
from purejaxppo.sweeps.options import SweepOptions
from purejaxppo.sweeps.samplers import TRIALS
from purejaxppo.sweeps.space import trial_of
from purejaxppo.sweeps.storage.learning import (
    decoded,
    distributions_of,
    encoded,
    label,
    sampler_for,
)
from purejaxppo.sweeps.storage.places import LOST, Place, why_lost
from purejaxppo.sweeps.study import Study
from purejaxppo.sweeps.trials import Result, Trial

BEAT = 10.0
"""Seconds between renewals of a process's stamp."""

STALE = 60.0
"""Seconds for which a stamp is seen unchanged before its process counts as dead."""

POLL = 1.0
"""Seconds between looks at a study whose last trials others train, or that cannot be reached."""

ABSENT = 60.0
"""Seconds after which who asks no longer waits for a storage that cannot be reached."""

WORKER, RESULT, IDENTITY = "worker", "result", "sweep"
"""Names of user attributes: of trials the first two, of the study `worker:NAME` and the last."""


class OptunaSource:
    """Trials of a study, to be asked for, trained and told; `optuna_source` opens it.

    Args:
        space: what is varied.
        config: all else.
        options: of the sweep.
        listed: for samplers that do not learn, all trials by their numbers.
        place: where the study is kept.
        study: keeps what came of trials, and what went wrong.
    """

    def __init__(
        self, space: Space, config: PPOConfig, options: SweepOptions, listed: Sequence[Trial],
        place: Place, study: Study,
    ):  # fmt: skip
        self._space, self._config, self._options = space, config, options
        self._place, self._kept = place, study
        self._distributions = distributions_of(space)
        self._total = len(listed) or options.trials or TRIALS
        self._draws = sampler_for(space, options, listed, self._total)
        self._scores = options.score if options.sampler == "nsga2" else options.score[:1]

        self._worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._own: set[int] = set()  # handed out here, and not told yet
        self._untold: dict[int, Result] = {}  # told here, and not to the storage yet
        self._stamps: dict[str, tuple[Any, float]] = {}  # of others, and when they were new
        self._lost_at: float | None = None
        self._ended = threading.Event()
        self._renews = threading.Thread(target=self._renew, daemon=True)

    # -- the study ---------------------------------------------------------------------------------

    def open(self, name: str, own: Mapping[str, str]) -> None:
        """Opens the study, made where there is none.

        Args:
            name: of the study.
            own: what was passed in place of what is configured, by name, in words.

        Raises:
            ConfigError: the place cannot be reached, or has another study of this name.
        """
        # one line of ours says what goes wrong
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        try:
            with self._place.held():
                storage = self._place.open()
                maximized = [optuna.study.StudyDirection.MAXIMIZE] * len(self._scores)
                self._study = optuna.create_study(
                    storage=storage, study_name=name, load_if_exists=True, directions=maximized
                )
                self._storage = storage
                self._check_identity(own)
                self._stamp()
        except (*LOST, NotImplementedError) as error:
            raise ConfigError(
                f"storage {self._place.name!r} cannot be reached ({why_lost(error)}): name "
                "one that is there with --storage"
            ) from error
        if self._place.shared:
            self._renews.start()

    def _check_identity(self, own: Mapping[str, str]) -> None:
        """Raises ConfigError if the study that is there is another one, by its first difference."""
        varied = {f"vary {name}": plain for name, plain in self._space.plain().items()}
        fields = {k: v for k, v in self._config.to_dict().items() if k not in self._space.names}
        measured = {"score": self._scores} | {
            name: getattr(self._options, name) for name in ("seeds", "eval_episodes")
        }
        ours = json.loads(json.dumps({**varied, **fields, **own, **measured}))
        theirs = self._study.user_attrs.get(IDENTITY, {} if self._trials() else None)
        if theirs is None:
            self._study.set_user_attr(IDENTITY, ours)
            return
        for name in [*ours, *theirs]:
            here, there = ours.get(name), theirs.get(name)
            if here != there:
                raise ConfigError(
                    f"study {self._study.study_name!r} in {self._place.name!r} has {name}="
                    f"{shown(there)}, and this sweep {shown(here)}: name another with --study-name"
                )

    def _trials(self) -> list[FrozenTrial]:
        """Returns all trials by number, as they are in the storage now."""
        return self._study.get_trials(deepcopy=False)

    # -- asking ------------------------------------------------------------------------------------

    def ask(self, count: int) -> list[Trial]:
        """Hands out trials: those that dead processes have left, then new ones.

        Where all trials are handed out and others still train some, it waits until these are told,
        or their processes are dead and the trials free; so it does for a storage that cannot be
        reached, `ABSENT` seconds long. It does not wait while trials of this process are untold.

        Args:
            count: how many at most.

        Returns:
            Trials, each with its number; none if none is left.
        """
        while True:
            try:
                with self._place.held():
                    self._pass_on()
                    trials, elsewhere = self._take(count)
            except LOST as error:
                # what it has taken, and could not hand out, is free
                trials, elsewhere = [], not self._absent(error)
                if not self._own and not elsewhere:
                    self._kept.problems.report(
                        f"storage {self._place.name!r} could not be reached: the sweep ends with "
                        "what it had asked for, and the same command goes on"
                    )
            if trials or self._own or not elsewhere:
                self._own.update(trial.number for trial in trials)
                return trials
            time.sleep(POLL)

    def _take(self, count: int) -> tuple[list[Trial], bool]:
        """Takes trials for this process.

        Args:
            count: how many at most.

        Returns:
            The trials, and whether others train any.
        """
        there, alive = self._trials()[: self._total], self._alive()
        running = [t for t in there if t.state == TrialState.RUNNING]
        free = [t for t in running if not self._is_taken(t, alive)]
        waiting = len(free) + sum(t.state == TrialState.WAITING for t in there)
        # a trial that waits is handed out by the next ask, with the values that it has
        for trial in free:
            self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

        # samplers begin anew with each batch, with a seed of where the study is: one that goes on
        # draws as if it had not been interrupted, and no two processes draw the same
        self._study.sampler = self._draws(len(there))
        taken = []
        for _ in range(min(count, waiting + self._total - len(there))):
            trial = self._study.ask(self._distributions)
            trial.set_user_attr(WORKER, self._worker)
            setting = decoded(self._space, trial.params)
            taken.append(trial_of(trial.number, setting, self._config))
        return taken, len(running) > len(free) + len(self._own)

    def _is_taken(self, trial: FrozenTrial, alive: set[str]) -> bool:
        """Says whether a running trial is trained by a process that lives."""
        worker = trial.user_attrs.get(WORKER)
        return trial.number in self._own if worker == self._worker else worker in alive

    # -- telling -----------------------------------------------------------------------------------

    def tell(self, result: Result) -> None:
        """Tells the study what has come of a trial; what cannot be told is told later.

        Args:
            result: of a trial that was handed out here, or to an earlier process whose folder this
                one goes on with: the storage may know it, or have been lost since.

        Raises:
            ConfigError: the trial of this number has another setting in the storage.
        """
        self._own.discard(result.number)
        self._untold[result.number] = result
        try:
            with self._place.held():
                self._pass_on()
        except LOST as error:
            self._absent(error)
        except ConfigError:
            del self._untold[result.number]
            raise

    def _pass_on(self) -> None:
        """Tells the storage all that it does not know yet."""
        for number in sorted(self._untold):
            self._tell(self._untold[number])
            del self._untold[number]
        self._lost_at = None

    def _tell(self, result: Result) -> None:
        """Tells the storage one result, unless it has one of that trial.

        A storage that was lost lacks trials: they are made, and wait to be trained or told.
        """
        while len(trials := self._trials()) <= result.number:
            self._study.add_trial(create_trial(state=TrialState.WAITING))
        trial, storage = trials[result.number], self._storage
        self._check_same(trial, result)
        if trial.state.is_finished():
            return
        if trial.state == TrialState.WAITING:
            storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        params = encoded(self._space, result.setting)
        for name, distribution in self._distributions.items():
            if name not in trial.params:
                inner = distribution.to_internal_repr(params[name])
                storage.set_trial_param(trial._trial_id, name, inner, distribution)
        storage.set_trial_user_attr(trial._trial_id, RESULT, result._asdict())

        values = [result.measured.get(name) for name in self._scores]
        values = [result.score] if len(values) == 1 else values
        known = [float(x) for x in values if x is not None and not math.isnan(x)]
        if result.status == "failed" or len(known) < len(values):
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        elif result.status == "stopped" and len(known) == 1:
            # samplers rank it by how far it came, then by its score there
            storage.set_trial_intermediate_value(trial._trial_id, result.steps, known[0])
            storage.set_trial_state_values(trial._trial_id, TrialState.PRUNED, known)
        else:
            storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, known)

    def _check_same(self, trial: FrozenTrial, result: Result) -> None:
        """Raises ConfigError if a result is of another setting than the storage's trial."""
        for name, value in result.setting.items():
            here, there = label(value), trial.params.get(name, label(value))
            if here != there:
                raise ConfigError(
                    f"trial {result.number} has {name}={shown(here)} in the study's folder, and "
                    f"{shown(there)} in {self._place.name!r}: name another with --study-dir or "
                    "--study-name"
                )

    def _absent(self, error: BaseException) -> bool:
        """Warns once that the storage cannot be reached.

        Returns:
            Whether that has been so for longer than anybody waits.
        """
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self._kept.problems.note(
                f"storage {self._place.name!r} cannot be reached ({why_lost(error)}): results are "
                "kept in the study's folder, and told to it when it is there again"
            )
        return time.monotonic() - self._lost_at > ABSENT

    def close(self) -> None:
        """Gives back trials that are not told, and takes over what others have told.

        What the storage could not be told is reported, and told by who goes on with the folder.
        """
        self._ended.set()
        if self._renews.is_alive():
            self._renews.join(BEAT)
        try:
            with self._place.held():
                self._pass_on()
                trials = self._trials()
                for number in self._own:
                    if not trials[number].state.is_finished():
                        waits = (trials[number]._trial_id, TrialState.WAITING)
                        self._storage.set_trial_state_values(*waits)
                self._study.set_user_attr(f"{WORKER}:{self._worker}", None)
                for trial in trials:
                    if RESULT in trial.user_attrs and trial.number not in self._kept.results:
                        # the run is in the folder of whoever has trained it
                        elsewhere = {**trial.user_attrs[RESULT], "run": None, "agents": []}
                        self._kept.tell(Result(**elsewhere))
        except LOST as error:
            if self._untold:
                self._kept.problems.report(
                    f"storage {self._place.name!r} cannot be reached ({why_lost(error)}), and was "
                    f"not told {len(self._untold)} results: the same command tells it"
                )
        self._place.close()

    # -- who lives ---------------------------------------------------------------------------------

    def _stamp(self) -> None:
        """Says in the study that this process lives."""
        self._study.set_user_attr(f"{WORKER}:{self._worker}", time.time())

    def _renew(self) -> None:
        """Renews the stamp until the source is closed; a thread of its own does it."""
        while not self._ended.wait(BEAT):
            try:
                self._place.check()
                self._stamp()
            except LOST:  # who asks or tells next says so
                pass

    def _alive(self) -> set[str]:
        """Returns the processes whose stamps have changed in the last `STALE` seconds.

        No clock is compared with another one: each process waits for itself.
        """
        now = time.monotonic()
        for name, stamp in self._study.user_attrs.items():
            kind, _, worker = name.partition(":")
            if kind == WORKER and self._stamps.get(worker, (None,))[0] != stamp:
                self._stamps[worker] = stamp, now
        if not self._place.shared:
            return set()
        return {
            worker for worker, (stamp, since) in self._stamps.items()
            if stamp is not None and now - since < STALE
        }  # fmt: skip
