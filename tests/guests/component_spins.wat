;; A WASI 0.2 command that never returns.
;; Expected: stopped at the deadline, timed_out.
(component
  (core module $m (func (export "run") (result i32) (loop $again (br $again)) (unreachable)))
  (core instance $m (instantiate $m))
  (func $run (result (result)) (canon lift (core func $m "run")))
  (instance $i (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $i)))
