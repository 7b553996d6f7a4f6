;; A WASI 0.2 command whose run says that it failed.
;; Expected: guest_error, exit status 1.
(component
  (core module $m (func (export "run") (result i32) (i32.const 1)))
  (core instance $m (instantiate $m))
  (func $run (result (result)) (canon lift (core func $m "run")))
  (instance $i (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $i)))
