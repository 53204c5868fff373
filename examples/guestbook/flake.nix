{
  description = "A guestbook: one service with a database, a cache, a bucket, secrets and a login";

  # A project of your own takes nixpkgs as an input, and a driver for each server from it. This one has no inputs, so
  # that it can be built anywhere: with the shell, the Python and the libpq of the machine, and the sandbox off.
  outputs = { self }:
    let
      each = f: builtins.listToAttrs (map (system: { name = system; value = f system; }) [ "x86_64-linux" "aarch64-linux" ]);
    in
    {
      packages = each (system: {
        guestbook = derivation {
          inherit system;
          name = "guestbook";
          src = builtins.path { name = "guestbook-source"; path = ./guestbook; };
          builder = "/bin/sh";
          PATH = "/usr/bin:/bin";
          args = [ "-euc" ''
            mkdir -p $out/bin $out/lib
            cp -r $src $out/lib/guestbook
            printf '#!/bin/sh\nexec /usr/bin/python3 %s\n' "$out/lib/guestbook" > $out/bin/guestbook
            chmod 755 $out/bin/guestbook
          '' ];
        };
      });
    };
}
