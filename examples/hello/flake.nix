{
  description = "Hello: two services and two sites, deployed by Kennel";

  # A project of your own takes nixpkgs as an input and builds with it. This one has no inputs, so that it can be
  # built anywhere: with the shell and the Python of the machine, and the sandbox off.
  outputs = { self }:
    let
      each = f: builtins.listToAttrs (map (system: { name = system; value = f system; }) [ "x86_64-linux" "aarch64-linux" ]);
      version = builtins.head (builtins.match "([^\n]*)\n?" (builtins.readFile ./VERSION));
      source = name: path: builtins.path { inherit name path; };

      packages = system:
        let
          build = name: src: script: derivation {
            inherit name system src version;
            builder = "/bin/sh";
            args = [ "-euc" "echo building ${name} ${version}; ${script}" ];
            PATH = "/usr/bin:/bin";
          };
        in
        {
          api = build "hello-api" (source "api" ./api) ''
            mkdir -p $out/bin $out/share
            install -m 755 $src/api.py $out/bin/api
            echo $version > $out/share/VERSION
            if [ -e $src/BROKEN ]; then touch $out/share/BROKEN; fi
          '';

          worker = build "hello-worker" (source "worker" ./worker) ''
            mkdir -p $out/bin
            install -m 755 $src/worker.py $out/bin/worker
          '';

          docs = build "hello-docs" (source "docs" ./docs) ''
            mkdir $out
            cp $src/style.css $out
            sed "s/@version@/$version/" $src/index.html > $out/index.html
          '';

          # The script's name holds a digest of its content, so that browsers may keep it for ever.
          app = build "hello-app" (source "app" ./app) ''
            mkdir -p $out/assets
            script=app.$(sha256sum $src/app.js | cut -c1-8).js
            cp $src/app.js $out/assets/$script
            sed -e "s/@script@/$script/" -e "s/@version@/$version/" $src/index.html > $out/index.html
          '';
        };
    in
    { packages = each packages; };
}
