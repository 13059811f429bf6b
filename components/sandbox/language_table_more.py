"""Further languages, tested where their toolchain happens to be installed."""

from dataclasses import replace

from components.sandbox.language_table import NODE
from components.sandbox.languages import MANAGED, Language

_GHC = "ghc -v0 -O0 -o program program.hs"
_BEAM = {"ERL_FLAGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"}
"""One scheduler that sleeps when idle: its default is to spin."""

MORE_LANGUAGES = (
    Language(
        "awk", "program.awk", "awk -f program.awk", "{ print 2 * $1 }", "mawk",
        harness="@program\nBEGIN {\n@checks\n}\n", check_line="if ((@actual) != (@expected)) exit 99",
    ),
    Language("zsh", "program.zsh", "zsh -f program.zsh", "read n\necho $((2 * "
                                                         "n))", "zsh", check="zsh -f -n program.zsh"),
    Language("fish", "program.fish", "fish -N program.fish", "read n\nmath 2 x $n", "fish",
             check="fish -N -n program.fish"),
    Language(
        "fortran", "program.f90", "./program", "program main\n  integer :: n\n  read *, n\n  print '(i0)', 2 * "
                                               "n\nend program",
        "gfortran", compile="gfortran -std=f2018 -o program program.f90",
    ),
    Language(
        "pascal", "program.pas", "./program", "var n: longint;\nbegin\n  readln(n);\n  writeln(2 * n);\n"
                                              "end.", "fp-compiler and fp-units-rtl",
        compile="fpc -v0 -oprogram program.pas",
    ),
    Language(
        "lisp", "program.lisp", "sbcl --dynamic-space-size 256 --script "
                                "program.lisp", "(format t \"~a~%\" (* 2 (read)))",
        "sbcl", limits=MANAGED, check_line="(unless (equal @actual @expected) (sb-ext:exit :code 99 :abort t))",
    ),
    Language(
        "scheme", "program.scm", "guile --no-auto-compile "
                                 "program.scm", "(display (* 2 (read)))\n(newline)", "guile-3.0",
        limits=MANAGED, check_line="(if (not (equal? @actual @expected)) (exit 99))",
    ),
    Language(
        "prolog", "program.prolog", "swipl -q -g main -t halt program.prolog",
        "main :- read_line_to_string(user_input, S), number_string(N, S), M is 2 * N, "
        "writeln(M).", "swi-prolog-nox", limits=MANAGED,
    ),
    Language(
        "ocaml", "program.ml", "./program", "let () = Printf.printf \"%d\\n\" (2 * read_int ())", "ocaml-nox",
        compile="ocamlc -o program program.ml", check_line="let () = if (@actual) <> (@expected) then exit 99",
        limits=MANAGED,
    ),
    Language(
        "nim", "program.nim", "./program", "import std/strutils\necho 2 * parseInt(stdin.readLine().strip())", "nim",
        compile="nim compile --hints:off --nimcache:/tmp/nim program.nim",
        check_line="if (@actual) != (@expected): quit(99)",
    ),
    Language(
        "erlang", "program.erl", "escript program.erl", "#!/usr/bin/env escript\nmain(_) -> {ok, [N]} = "
                                                        "io:fread(\"\", \"~d\"), io:format(\"~p~n\", [2 * N]).",
        "erlang-base", limits=MANAGED, environment=_BEAM,
    ),
    Language(
        "elixir", "program.exs", "elixir program.exs",
        "IO.puts(2 * (IO.gets(\"\") |> String.trim() |> "
        "String.to_integer()))", "elixir", limits=replace(MANAGED, timeout=20), environment=_BEAM,
        check_line="if (@actual) != (@expected), do: System.halt(99)",
    ),
    Language(
        "coffeescript", "program.coffee", "coffee program.coffee",
        "console.log 2 * Number require('fs').readFileSync(0, 'utf8')", "coffeescript", limits=NODE,
        check_line="process.exit 99 unless JSON.stringify(@actual) is JSON.stringify(@expected)",
    ),
    Language(
        "assembly", "program.s", "./program",
        '.globl main\n.text\nmain:\n  sub $24, %rsp\n  lea in(%rip), %rdi\n  lea 8(%rsp), %rsi\n  xor %eax, %eax\n'
        "  call scanf@PLT\n  mov 8(%rsp), %esi\n  add %esi, %esi\n  lea out(%rip), %rdi\n  xor %eax, %eax\n"
        '  call printf@PLT\n  xor %eax, %eax\n  add $24, %rsp\n  ret\n.data\nin: .asciz "%d"\nout: .asciz "%d\\n"\n'
        '.section .note.GNU-stack,"",@progbits\n',
        "gcc", compile="gcc -o program program.s",
    ),
    Language(
        "haskell", "program.hs", "./program", "main :: IO ()\nmain = interact $ \\s -> show (2 * read s :: Int) "
                                              "++ \"\\n\"",
        "ghc", compile=_GHC, limits=MANAGED,
    ),
    Language(
        "kotlin", "program.kts", "kotlinc -script program.kts", "println(2 * readLine()!!.trim().toInt())", "kotlin",
        limits=MANAGED,
    ),
    Language(
        "scala", "program.scala", "scala Main", "object Main extends App { println(2 * scala.io.StdIn.readInt()) "
                                                "}", "scala",
        compile="scalac program.scala", limits=MANAGED,
    ),
    Language("groovy", "program.groovy", "groovy program.groovy", "println 2 * "
        "System.in.text.trim().toInteger()", "groovy",
             limits=MANAGED),
    Language(
        "clojure", "program.clj", "clojure program.clj",
        "(println (* 2 (Integer/parseInt (read-line))))", "clojure", limits=MANAGED,
    ),
    Language(
        "csharp", "program.cs", "mono program.exe",
        "using System;\nclass Program { static void Main() { Console.WriteLine(2 * int.Parse(Console.ReadLine())); } }",
        "mono-mcs", compile="mcs program.cs", limits=MANAGED,
    ),
    Language(
        "visualbasic", "program.vb", "mono program.exe",
        "Module Program\n Sub Main()\n  Console.WriteLine(2 * Integer.Parse(Console.ReadLine()))\n End Sub\nEnd Module",
        "mono-vbnc", compile="vbnc -nologo program.vb", limits=MANAGED,
    ),
    Language(
        "d", "program.d", "./program", "import std.stdio;\nvoid main() { int n; readf(\" %d\", n); writeln(2 * "
                                       "n); }", "gdc",
        compile="gdc -o program program.d",
    ),
    Language(
        "ada", "main.adb", "./main",
        "with Ada.Integer_Text_IO; use Ada.Integer_Text_IO;\nprocedure Main is N : Integer;\nbegin Get (N); "
        "Put (2 * N, Width => 0); end Main;",
        "gnat", compile="gnatmake -q main.adb",
    ),
    Language(
        "objective-c", "program.m", "./program",
        '#include <stdio.h>\nint main(void) { int n; scanf("%d", &n); printf("%d\\n", 2 * n); return 0; }', "clang",
        compile="clang -x objective-c -o program program.m",
    ),
    Language("julia", "program.jl", "julia --startup-file=no program.jl", "println(2 * parse(Int, "
        "readline()))", "julia",
             limits=MANAGED),
    Language("swift", "program.swift", "./program", "print(2 * Int(readLine()!)!)", "swiftlang",
             compile="swiftc -o program program.swift", limits=MANAGED),
    Language(
        "dart", "program.dart", "dart run program.dart",
        "import 'dart:io';\nvoid main() { print(2 * int.parse(stdin.readLineSync()!)); }", "dart", limits=MANAGED,
    ),
    Language("octave", "program.octave", "octave-cli --no-init-file "
                                         "program.octave", 'n = input("");\nprintf("%d\\n", 2 * n);',
             "octave", limits=MANAGED),
    Language("racket", "program.rkt", "racket program.rkt", "#lang racket/base\n(display (* 2 (read)))", "racket",
             limits=MANAGED),
    Language("crystal", "program.cr", "./program", "puts 2 * gets.not_nil!.to_i", "crystal",
             compile="crystal build -o program program.cr", limits=MANAGED),
    Language("raku", "program.raku", "raku program.raku", "say 2 * get.Int;", "rakudo", limits=MANAGED),
)  # fmt: skip
