;; A WASI 0.2 command, `wasi:cli/run`, written by hand: copies standard input to standard output with every
;; ASCII letter moved on by thirteen. Run twice, it gives back what went in.
(component
  (import "wasi:io/error@0.2.0" (instance $io_error
    (export "error" (type (sub resource)))))
  (alias export $io_error "error" (type $error))

  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "error" (type $e (eq $error)))
    (export "input-stream" (type $input (sub resource)))
    (export "output-stream" (type $output (sub resource)))
    (type $failure (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $stream_error (eq $failure)))
    (export "[method]input-stream.blocking-read" (func
      (param "self" (borrow $input)) (param "len" u64)
      (result (result (list u8) (error $stream_error)))))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $output)) (param "contents" (list u8))
      (result (result (error $stream_error)))))))
  (alias export $streams "input-stream" (type $input))
  (alias export $streams "output-stream" (type $output))

  (import "wasi:cli/stdin@0.2.0" (instance $stdin
    (export "input-stream" (type $i (eq $input)))
    (export "get-stdin" (func (result (own $i))))))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (export "output-stream" (type $o (eq $output)))
    (export "get-stdout" (func (result (own $o))))))

  ;; The host writes what it read into this memory, one chunk at a time and always at the same place.
  (core module $store
    (memory (export "memory") 2)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (if (i32.gt_u (local.get 3) (i32.const 65536)) (then unreachable))
      (i32.const 65536)))
  (core instance $store (instantiate $store))
  (alias core export $store "memory" (core memory $memory))
  (alias core export $store "realloc" (core func $realloc))

  (core func $get_stdin (canon lower (func $stdin "get-stdin")))
  (core func $get_stdout (canon lower (func $stdout "get-stdout")))
  (core func $read (canon lower (func $streams "[method]input-stream.blocking-read")
    (memory $memory) (realloc $realloc)))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory $memory)))
  (core func $drop_error (canon resource.drop $error))

  (core module $command
    (import "host" "memory" (memory 2))
    (import "host" "get-stdin" (func $get_stdin (result i32)))
    (import "host" "get-stdout" (func $get_stdout (result i32)))
    (import "host" "read" (func $read (param i32 i64 i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "drop-error" (func $drop_error (param i32)))

    (func $rotate (param $at i32) (param $bytes i32)
      (local $end i32)
      (local $letter i32)
      (local.set $end (i32.add (local.get $at) (local.get $bytes)))
      (block $done
        (loop $next
          (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
          ;; Position in the alphabet; anything that is not a letter comes out above 25.
          (local.set $letter
            (i32.sub (i32.or (i32.load8_u (local.get $at)) (i32.const 0x20)) (i32.const 0x61)))
          (if (i32.lt_u (local.get $letter) (i32.const 26))
            (then
              (i32.store8 (local.get $at)
                (i32.add (i32.load8_u (local.get $at))
                  (select (i32.const 13) (i32.const -13)
                    (i32.lt_u (local.get $letter) (i32.const 13)))))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br $next))))

    ;; The host's result lies at 0: a tag (0: ok), then at 4 and 8 what was read, or the error and its handle.
    (func (export "run") (result i32)
      (local $in i32)
      (local $out i32)
      (local $bytes i32)
      (local.set $in (call $get_stdin))
      (local.set $out (call $get_stdout))
      (loop $chunk
        (call $read (local.get $in) (i64.const 4096) (i32.const 0))
        (if (i32.load8_u (i32.const 0))
          (then
            (if (i32.load8_u (i32.const 4)) (then (return (i32.const 0))))
            (call $drop_error (i32.load (i32.const 8)))
            (return (i32.const 1))))
        (local.set $bytes (i32.load (i32.const 8)))
        (call $rotate (i32.load (i32.const 4)) (local.get $bytes))
        (call $write (local.get $out) (i32.load (i32.const 4)) (local.get $bytes) (i32.const 16))
        (br_if $chunk (i32.eqz (i32.load8_u (i32.const 16)))))
      (if (i32.eqz (i32.load8_u (i32.const 20))) (then (call $drop_error (i32.load (i32.const 24)))))
      (i32.const 1)))
  (core instance $command (instantiate $command
    (with "host" (instance
      (export "memory" (memory $memory))
      (export "get-stdin" (func $get_stdin))
      (export "get-stdout" (func $get_stdout))
      (export "read" (func $read))
      (export "write" (func $write))
      (export "drop-error" (func $drop_error))))))

  (func $run (result (result)) (canon lift (core func $command "run")))
  (instance $run_interface (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $run_interface)))
