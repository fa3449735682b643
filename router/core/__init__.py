"""The rules, as a pure function of a lane, an event and the time. Only `keylane.schemas` may be imported here.

`step` has the table; `lane` the state and its one way to change (`standing`, `ordered`, `seats` and `timers` are what
its indexes are made of); `arrival`, `transitions`, `endings`, `dispatch` and `sessions` the rules; `projections` what
follows from events; `policy` what a configuration can choose.
"""
