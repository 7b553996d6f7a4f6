;; Touches every page it can get, so that the kernel has to give it real memory.
(module
  (memory (export "memory") 1)
  (func (export "_start") (local $page i32)
    (loop $more
      (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable)))
      (memory.fill (i32.mul (local.get $page) (i32.const 1048576)) (i32.const 1) (i32.const 1048576))
      (local.set $page (i32.add (local.get $page) (i32.const 1)))
      (br $more))))
