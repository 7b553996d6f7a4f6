;; Asks for one page, a million times, whatever the answer.
;; Expected: completed within bounded time, the memory at its limit.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (local $left i32)
    (local.set $left (i32.const 1000000))
    (loop $more
      (drop (memory.grow (i32.const 1)))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $more (local.get $left)))))
