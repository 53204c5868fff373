# What stands in for nixpkgs: builders that run with the shell and tools of the machine (no sandbox), and an
# inert package for each of `names`.
{ lib, system, shell ? "/bin/sh", path ? "/usr/bin:/bin", names ? [ ] }:
let
  runCommand = name: env: script: derivation (env // {
    inherit name system;
    builder = shell;
    PATH = path;
    args = [ "-euc" script ];
  });
  inert = name: runCommand name { } "mkdir -p $out" // { pname = name; outputs = [ "out" ]; };
in
lib.genAttrs names inert // {
  inherit lib system runCommand;
  runCommandLocal = runCommand;
  writeText = name: text: runCommand name { inherit text; passAsFile = [ "text" ]; } "cp $textPath $out";
  writeShellScript = name: text:
    runCommand name { text = "#!${shell}\n" + text; passAsFile = [ "text" ]; } "cp $textPath $out; chmod 755 $out";
  stdenv = { isLinux = true; isDarwin = false; hostPlatform = { inherit system; isLinux = true; isDarwin = false; }; };
}
