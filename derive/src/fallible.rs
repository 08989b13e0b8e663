//! `#[fallible]`: each op is written once, as `try_name`; a tensor's op gives errors its name.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{FnArg, GenericArgument, ImplItem, ItemImpl, Pat, PathArguments, Result, ReturnType, Type, Visibility, parse_quote};

pub fn expand(item: TokenStream) -> Result<TokenStream> {
    let mut block: ItemImpl = syn::parse2(item)?;
    let mut wrappers = Vec::new();
    // The methods of other types are constructors, whose errors bear the type's name.
    let op = matches!(&*block.self_ty, Type::Path(p) if p.path.is_ident("Tensor"));
    for item in &mut block.items {
        let ImplItem::Fn(f) = item else { continue };
        let name = f.sig.ident.to_string();
        let Some(short) = name.strip_prefix("try_") else { continue };
        if !matches!(f.vis, Visibility::Public(_)) {
            continue;
        }
        let mut sig = f.sig.clone();
        sig.ident = format_ident!("{short}");
        let output = ok_type(&f.sig.output)?;
        sig.output = parse_quote!(-> #output);
        let mut args = Vec::new();
        let mut receiver = false;
        for (i, arg) in sig.inputs.iter_mut().enumerate() {
            match arg {
                FnArg::Receiver(_) => receiver = true,
                FnArg::Typed(t) => {
                    let id = match &*t.pat {
                        Pat::Ident(p) => p.ident.clone(),
                        _ => format_ident!("arg{i}"),
                    };
                    t.pat = parse_quote!(#id);
                    args.push(id);
                }
            }
        }
        let docs: Vec<_> = f.attrs.iter().filter(|a| a.path().is_ident("doc") || a.path().is_ident("cfg")).cloned().collect();
        let long = &f.sig.ident;
        let call = if receiver { quote!(self.#long(#(#args),*)) } else { quote!(Self::#long(#(#args),*)) };
        let vis = &f.vis;
        let panics = format!("# Panics\nAt the caller's line, with the message of the error that [`{long}`](Self::{long}) returns.");
        wrappers.push(quote! {
            #(#docs)*
            #[doc = ""]
            #[doc = #panics]
            #[track_caller]
            #[cfg_attr(no_panicking_ops, deprecated(note = "inside the library, call the `try_` form"))]
            #vis #sig {
                match #call {
                    Ok(value) => value,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let note = format!("As [`{short}`](Self::{short}), with wrong use as an error.");
        f.attrs.retain(|a| !a.path().is_ident("doc"));
        f.attrs.push(parse_quote!(#[doc = #note]));
        if op {
            // What the body calls may be other ops: an error names the one that was called first.
            let (body, result) = (&f.block, &f.sig.output);
            let named: syn::Block = parse_quote!({ (move || #result #body)().map_err(|error: crate::Error| error.named(#short)) });
            f.attrs.push(parse_quote!(#[allow(clippy::redundant_closure_call)]));
            f.block = named;
        }
    }
    let (impl_generics, _, where_clause) = block.generics.split_for_impl();
    let ty = &block.self_ty;
    Ok(quote! {
        #block
        impl #impl_generics #ty #where_clause { #(#wrappers)* }
    })
}

fn ok_type(output: &ReturnType) -> Result<Type> {
    if let ReturnType::Type(_, ty) = output
        && let Type::Path(p) = &**ty
        && let Some(last) = p.path.segments.last()
        && last.ident == "Result"
        && let PathArguments::AngleBracketed(args) = &last.arguments
        && let Some(GenericArgument::Type(t)) = args.args.first()
    {
        return Ok(t.clone());
    }
    Err(syn::Error::new_spanned(output, "a try_ method returns Result<T>"))
}
