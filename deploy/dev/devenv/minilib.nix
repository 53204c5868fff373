# A small module system written for tests: enough of options, types and properties
# to evaluate a project's devenv.nix and the modules it imports. No dependency.
let
  inherit (builtins) attrNames attrValues concatLists concatMap elem filter foldl' functionArgs hasAttr head
    isAttrs isBool isFunction isInt isFloat isList isPath isString length listToAttrs map mapAttrs tail typeOf;
  isDrv = v: isAttrs v && v.type or null == "derivation";
  tag = v: if isAttrs v then v._type or null else null;
  where = loc: concatStringsSep "." loc;
  concatStringsSep = builtins.concatStringsSep;
  nameValue = name: value: { inherit name value; };
  unique = foldl' (a: x: if elem x a then a else a ++ [ x ]) [ ];

  # ---- properties
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkOrder = order: content: { _type = "order"; inherit order content; };
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };

  # a module's config, as a list of plain attribute sets, with properties moved to the leaves
  push = v:
    if tag v == "merge" then concatMap push v.contents
    else if tag v == "if" then map (mapAttrs (_: mkIf v.condition)) (push v.content)
    else if tag v == "override" then map (mapAttrs (_: mkOverride v.priority)) (push v.content)
    else [ v ];
  # a leaf's definitions: [ { value priority order } ]
  leaves = d@{ value, ... }:
    let v = value; in
    if tag v == "merge" then concatMap (x: leaves (d // { value = x; })) v.contents
    else if tag v == "if" then (if v.condition then leaves (d // { value = v.content; }) else [ ])
    else if tag v == "override" then leaves (d // { value = v.content; inherit (v) priority; })
    else if tag v == "order" then leaves (d // { value = v.content; inherit (v) order; })
    else [ d ];
  settle = raw:
    let
      all = concatMap (value: leaves { inherit value; priority = 100; order = 1000; }) raw;
      best = foldl' (a: d: if d.priority < a then d.priority else a) 9999 all;
    in map (d: d.value) (builtins.sort (a: b: a.order < b.order) (filter (d: d.priority == best) all));

  # ---- types: { name; check; merge = loc: values: value; empty? }
  one = loc: vs: if length vs == 1 || foldl' (ok: v: ok && v == head vs) true (tail vs) then head vs
    else throw "The option `${where loc}' is defined with different values.";
  scalar = name: check: { inherit name check; merge = one; };
  attrsOf = t: {
    name = "attrsOf ${t.name}"; check = isAttrs; empty = { };
    merge = loc: vs:
      let names = unique (concatMap attrNames (concatMap push vs)); in
      listToAttrs (concatMap (n:
        let ds = settle (concatMap (v: if hasAttr n v then [ v.${n} ] else [ ]) (concatMap push vs)); in
        if ds == [ ] then [ ] else [ (nameValue n (checked t (loc ++ [ n ]) ds)) ]) names);
  };
  types = rec {
    str = scalar "string" (v: isString v || isDrv v); nonEmptyStr = str; singleLineStr = str;
    bool = scalar "boolean" isBool; int = scalar "signed integer" isInt; float = scalar "float" isFloat;
    port = scalar "port" (v: isInt v && v >= 0 && v < 65536);
    path = scalar "absolute path" (v: isPath v || isDrv v || (isString v && builtins.substring 0 1 v == "/"));
    package = scalar "package" (v: isDrv v || isPath v || isString v);
    separatedString = sep: { name = "lines"; check = isString; empty = ""; merge = _: concatStringsSep sep; };
    lines = separatedString "\n"; commas = separatedString ",";
    unspecified = raw; raw = { name = "raw"; check = _: true; merge = one; };
    anything = { name = "anything"; check = _: true;
      merge = loc: vs:
        if foldl' (ok: v: ok && isAttrs v && !isDrv v) true vs then (attrsOf anything).merge loc vs
        else if foldl' (ok: v: ok && isList v) true vs then concatLists vs
        else one loc vs; };
    attrs = { name = "attrs"; check = isAttrs; empty = { }; merge = _: foldl' (a: b: a // b) { }; };
    inherit attrsOf; lazyAttrsOf = attrsOf;
    listOf = t: { name = "list of ${t.name}"; check = isList; empty = [ ];
      merge = loc: vs: map (v: checked t loc (settle [ v ])) (concatLists vs); };
    nullOr = t: { name = "null or ${t.name}"; check = v: v == null || t.check v;
      merge = loc: vs: if foldl' (ok: v: ok && v == null) true vs then null else t.merge loc vs; };
    enum = xs: scalar "one of ${builtins.toJSON xs}" (v: elem v xs);
    either = a: b: { name = "${a.name} or ${b.name}"; check = v: a.check v || b.check v;
      merge = loc: vs: (if a.check (head vs) then a else b).merge loc vs; };
    oneOf = ts: foldl' either (head ts) (tail ts);
    functionTo = t: { name = "function to ${t.name}"; check = isFunction; merge = loc: vs: x: checked t loc (map (f: f x) vs); };
    deferredModule = { name = "module"; check = _: true; merge = _: vs: { imports = vs; }; };
    submodule = m: submoduleWith { modules = if isList m then m else [ m ]; };
    submoduleWith = { modules, specialArgs ? { }, ... }: { name = "submodule"; check = v: isAttrs v || isFunction v || isPath v;
      merge = loc: vs: (evalModules { modules = modules ++ vs; specialArgs = specialArgs // { name = builtins.elemAt loc (length loc - 1); }; prefix = loc; }).config; };
  };
  checked = t: loc: vs:
    let bad = filter (v: !(t.check v)) vs; in
    if bad == [ ] then t.merge loc vs
    else throw "A definition for option `${where loc}' is not of type `${t.name}' (got ${typeOf (head bad)}).";

  # ---- evaluation
  evalModules = { modules, specialArgs ? { }, prefix ? [ ] }:
    let
      known = { inherit lib config options; } // specialArgs;
      call = f: f (known // mapAttrs (n: _: known.${n} or config._module.args.${n}) (removeAttrs (functionArgs f) (attrNames known)));
      load = m:
        let
          v = if isPath m || isString m then import m else m;
          r = if isFunction v then call v else v;
          body = if r ? config || r ? options then { config = r.config or { }; options = r.options or { }; }
            else { config = removeAttrs r [ "imports" "_file" "key" "disabledModules" ]; options = { }; };
        in concatMap load (r.imports or [ ]) ++ [ (body // { free = r.freeformType or r._module.freeformType or null; }) ];
      reversed = xs: foldl' (a: x: [ x ] ++ a) [ ] xs;
      loaded = reversed (concatMap load modules);   # nixpkgs' order: the last definition comes first
      free = foldl' (a: m: if m.free != null then m.free else a) null loaded;
      options = foldl' joinOptions { } (map (m: m.options) loaded);
      joinOptions = a: b: foldl' (acc: n:
        acc // { ${n} = if hasAttr n acc && tag acc.${n} != "option" then joinOptions acc.${n} b.${n} else b.${n}; }) a (attrNames b);
      walk = loc: opts: defs:
        mapAttrs (n: o:
          let here = concatMap (d: if hasAttr n d then [ d.${n} ] else [ ]) defs; in
          if tag o == "option" then value (loc ++ [ n ]) o here
          else walk (loc ++ [ n ]) o (concatMap push here)) opts
        // extra loc opts defs;
      extra = loc: opts: defs:
        let names = filter (n: !(hasAttr n opts) && n != "_module") (unique (concatMap attrNames defs)); in
        if names == [ ] then { }
        else if free == null || loc != prefix then throw "The option `${where (loc ++ [ (head names) ])}' does not exist."
        else listToAttrs (concatMap (n:
          let ds = settle (concatMap (d: if hasAttr n d then [ d.${n} ] else [ ]) defs); in
          [ (nameValue n (types.anything.merge (loc ++ [ n ]) ds)) ]) names);
      value = loc: o: raw:
        let
          t = o.type or types.anything;
          ds = settle raw;
          v = if ds != [ ] then
              (if o.readOnly or false && length ds > 1 then throw "The option `${where loc}' is read-only but has several definitions."
               else checked t loc ds)
            else if o ? default then checked t loc (settle [ o.default ])
            else if t ? empty then t.empty
            else throw "The option `${where loc}' is used but never defined.";
        in (o.apply or (x: x)) v;
      config = walk prefix options (concatMap (m: push m.config) loaded)
        // { _module.args = foldl' (a: m: a // (m.config._module.args or { })) { } loaded; };
    in { config = removeAttrs config [ "_module" ]; inherit options; };

  lib = builtins // rec {
    inherit types evalModules mkOverride mkOrder mkIf mkMerge unique;
    mkOption = o: o // { _type = "option"; };
    mkEnableOption = what: mkOption { type = types.bool; default = false; description = "Whether to enable ${what}."; };
    mkPackageOption = pkgs: name: o: mkOption { type = types.package; default = pkgs.${name}; };
    mkDefault = mkOverride 1000; mkForce = mkOverride 50; mkOptionDefault = mkOverride 1500; mkVMOverride = mkOverride 10;
    mkBefore = mkOrder 500; mkAfter = mkOrder 1500;
    literalExpression = text: { _type = "literalExpression"; inherit text; }; literalMD = literalExpression;
    optional = c: x: if c then [ x ] else [ ]; optionals = c: x: if c then x else [ ];
    optionalString = c: s: if c then s else ""; optionalAttrs = c: a: if c then a else { };
    nameValuePair = nameValue; mapAttrs' = f: a: listToAttrs (map (n: f n a.${n}) (attrNames a));
    mapAttrsToList = f: a: map (n: f n a.${n}) (attrNames a);
    filterAttrs = p: a: listToAttrs (concatMap (n: if p n a.${n} then [ (nameValue n a.${n}) ] else [ ]) (attrNames a));
    genAttrs = ns: f: listToAttrs (map (n: nameValue n (f n)) ns);
    concatMapStringsSep = s: f: l: concatStringsSep s (map f l); concatStrings = concatStringsSep "";
    concatLines = ls: concatMapStringsSep "" (l: l + "\n") ls; escapeShellArg = s: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString s)}'";
    hasPrefix = p: s: builtins.substring 0 (builtins.stringLength p) s == p; isDerivation = isDrv;
    getExe = p: "${p}/bin/${p.meta.mainProgram or p.pname or p.name}"; attrByPath = p: d: a: if p == [ ] then a else if a ? ${head p} then attrByPath (tail p) d a.${head p} else d;
    fileContents = f: builtins.head (builtins.match "(.*[^\n])?\n*" (builtins.readFile f)); id = x: x; flip = f: a: b: f b a; const = a: _: a;
  };
in lib
