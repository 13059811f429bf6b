"""Languages whose toolchains the distribution and this project's tests install. Blanks inside a word are ``%20``."""

from dataclasses import replace

from components.sandbox.languages import MANAGED, Language

_C_MAIN = "@program\n#include <stdlib.h>\nint main(void) {\n@checks\n  return 0;\n}\n"
_GO = {"GOCACHE": "/tmp/go", "GOPATH": "/tmp/gopath", "GO111MODULE": "off", "CGO_ENABLED": "0", "GOMAXPROCS": "2"}
JAVA = "-Xmx256m -Xss2m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData"
JAVAC = "-J-Xmx512m -J-XX:+UseSerialGC -J-XX:TieredStopAtLevel=1 -J-XX:-UsePerfData"
NODE = replace(MANAGED, memory_mb=1024)

LANGUAGES = (
    Language(
        "python", "program.py", "python3 program.py", "print(2 * int(input()))", "python3",
        check_line="assert @actual == @expected",
    ),
    Language(
        "javascript", "program.js", "node --max-old-space-size=256 program.js",
        "console.log(2 * Number(require('fs').readFileSync(0, 'utf8')));", "nodejs",
        check="node --check program.js", limits=NODE,
        check_line="if (JSON.stringify(@actual) !== JSON.stringify(@expected)) process.exit(99);",
    ),
    Language(
        "typescript", "program.ts", "node --max-old-space-size=256 program.js",
        "const n: number = Number(require('fs').readFileSync(0, 'utf8'));\n"
        "console.log(2 * n);",
        "node-typescript", limits=NODE,
        compile="tsc --strict --target ES2020 --module commonjs --lib ES2020 program.ts host.d.ts",
        files={"host.d.ts": "declare const console: any, process: any, require: any, setTimeout: any;\n"},
        check_line="if (JSON.stringify(@actual) !== JSON.stringify(@expected)) process.exit(99);",
    ),
    Language(
        "bash", "program.sh", "bash program.sh", "read -r n\necho $((2 * n))", "bash", check="bash -n program.sh",
        check_line='[ "$(@actual)" = "@expected" ] || exit 99',
    ),
    Language(
        "c", "program.c", "./program",
        '#include <stdio.h>\nint main(void) { int n; if (scanf("%d", &n) != 1) return 1; printf("%d\\n", 2 * n); }',
        "gcc", compile="gcc -std=c17 -O1 -Wall -Werror=implicit-function-declaration -o program program.c -lm",
        harness=_C_MAIN, check_line="  if ((@actual) != (@expected)) exit(99);",
    ),
    Language(
        "cpp", "program.cpp", "./program",
        '#include <iostream>\nint main() { int n; std::cin >> n; std::cout << 2 * n << "\\n"; }',
        "g++", compile="g++ -std=c++17 -O1 -Wall -o program program.cpp",
        harness=_C_MAIN.replace("(void)", "()"), check_line="  if (!((@actual) == (@expected))) exit(99);",
    ),
    Language(
        "rust", "program.rs", "./program",
        "use std::io::Read;\nfn main() { let mut s = String::new(); std::io::stdin().read_to_string(&mut s).unwrap();\n"
        'println!("{}", 2 * s.trim().parse::<i64>().unwrap()); }',
        "rustc", compile="rustc --edition 2021 -C debuginfo=0 -C codegen-units=1 -o program program.rs",
        harness="@program\nfn main() {\n@checks\n}\n",
        check_line="    if (@actual) != (@expected) { std::process::exit(99); }",
    ),
    Language(
        "java", "Main.java", f"java {JAVA} Main",
        "import java.util.*;\npublic class Main { public static void main(String[] a) {\n"
        "System.out.println(2 * new Scanner(System.in).nextInt()); } }",
        "default-jdk-headless", compile=f"javac {JAVAC} Main.java", limits=MANAGED,
        harness="public class Main {\n@program\npublic static void main(String[] arguments) {\n@checks\n}\n}\n",
        check_line="if (!java.util.Objects.equals(@actual, @expected)) System.exit(99);",
    ),
    Language(
        "perl", "program.pl", "perl program.pl", "my $n = <STDIN>;\nprint 2 * $n, qq(\\n);", "perl",
        check="perl -c program.pl", harness="use strict;\nuse warnings;\n@program\n@checks\n",
        check_line="exit 99 if (@actual) ne (@expected);",
    ),
    Language(
        "php", "program.php", "php -n -d display_errors=stderr program.php", "<?php echo 2 * "
            "intval(fgets(STDIN)), PHP_EOL;",
        "php-cli", check="php -n -l program.php", harness="<?php\n@program\n@checks\n",
        check_line="if ((@actual) !== (@expected)) exit(99);",
    ),
    Language(
        "ruby", "program.rb", "ruby --disable-gems program.rb", "puts 2 * gets.to_i", "ruby",
        check="ruby --disable-gems -c program.rb", check_line="exit 99 if (@actual) != (@expected)",
    ),
    Language(
        "lua", "program.lua", "lua5.4 program.lua", "print(2 * io.read('n'))", "lua5.4",
        check="luac5.4 -p program.lua", check_line="if (@actual) ~= (@expected) then os.exit(99) end",
    ),
    Language(
        "go", "program.go", "./program",
        'package main\nimport "fmt"\nfunc main() { var n int; fmt.Scan(&n); fmt.Println(2 * n) }',
        "golang-go", compile="go build -o program program.go", environment=_GO, limits=MANAGED,
        harness='package main\nimport "os"\n@program\nfunc main() {\n@checks\n\tos.Exit(0)\n}\n',
        check_line="\tif (@actual) != (@expected) { os.Exit(99) }",
    ),
    Language(
        "r", "program.R", "Rscript --vanilla program.R", 'n <- scan(file("stdin"), quiet = TRUE)\ncat(2 * n, "\\n")',
        "r-base-core", check="Rscript --vanilla -e invisible(parse('program.R'))", limits=replace(MANAGED, timeout=20),
        check_line="if (!isTRUE(all.equal(@actual, @expected))) quit(status = 99)",
    ),
    Language(
        "sql", "program.sql", "sqlite3 -bail -batch :memory: .read%20program.sql",
        "WITH input(n) AS (VALUES (21)) SELECT 2 * n FROM input;", "sqlite3",
        # SQLite has no exit: a failed CHECK stops the script, which -bail turns into code 1
        harness="CREATE TEMP TABLE checks (holds INTEGER CONSTRAINT wrong_answer CHECK (holds));\n@program\n@checks\n",
        check_line="INSERT INTO checks SELECT (@actual) IS (@expected);",
    ),
    Language(
        "tcl", "program.tcl", "tclsh program.tcl", "gets stdin n\nputs [expr {2 * $n}]", "tcl",
        check="tclsh complete.tcl", check_line="if {[@actual] ne {@expected}} {exit 99}",
        files={"complete.tcl": "set file [open program.tcl]\nexit [expr {![info complete [read $file]]}]\n"},
    ),
)  # fmt: skip
