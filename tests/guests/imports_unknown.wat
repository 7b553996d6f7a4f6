;; Imports a function nobody offers.
;; Expected: invalid_module, naming env.launch_missiles.
(module
  (import "env" "launch_missiles" (func $launch (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $launch (i32.const 1))))
